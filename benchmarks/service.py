"""Overhead of pipeline and service: frames per second from POST to done, against the bare model on the same frames.

    python -m benchmarks.service [CLIP] [--model NAME] [--workers 1 2] [--rounds 3]

`skipvsr up` runs in a data folder of its own. Rounds are interleaved (bare, pipeline, service): other load hits all
three. Figures are medians, and ratios are ratios of medians.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TypeVar

import httpx
import numpy as np
from rich.console import Console

from benchmarks.report import machine, one_line, show, write_json
from benchmarks.stream import results
from jobs.schema import JobOptions
from jobs.settings import Settings
from media.reader import VideoReader
from model.engine.loading import load_model
from model.engine.upscaler import Upscaler
from pipeline.task import UpscaleTask
from pipeline.upscale import upscale

T = TypeVar("T")
EXAMPLE = Path(__file__).parents[1] / "examples" / "clip.mp4"
_DEFAULTS = JobOptions()
_POLL_SECONDS = 1.0
"""Between polls of a job: polling 20 times a second takes a tenth of a core."""


@dataclass(frozen=True)
class ServiceRow:
    """A number of workers against the bare model."""

    workers: int
    jobs: int
    threads: int
    """Threads of each worker and of the bare model; 0: one per core."""
    frames: int
    bare_fps: float
    pipeline_fps: float
    """Of one job without a service, from file to file: decode, model, encode, checkpoints, mux."""
    service_fps: float
    ratio: float


def bare_fps(model: Upscaler, frames: Sequence[np.ndarray]) -> float:
    """Frames per second of the network alone, on frames in memory, chunk by chunk as in a job."""
    begun = time.perf_counter()
    for _ in results(model, frames, chunk=_DEFAULTS.chunk, lookahead=_DEFAULTS.lookahead, routing=_DEFAULTS.routing):
        pass
    return len(frames) / (time.perf_counter() - begun)


def in_thread(measure: Callable[[], T]) -> T:
    """Measure in a short-lived thread, whose OpenMP threads end with it and slow down no later measurement."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(measure).result()


def pipeline_fps(model: Upscaler, clip: Path, frames: int) -> float:
    """Frames per second of the worker's pipeline in this process, from file to file."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        for _ in upscale(UpscaleTask(clip, Path(folder), _DEFAULTS), model):
            pass
        return frames / (time.perf_counter() - begun)


def service_fps(client: httpx.Client, clip: Path, jobs: int, frames: int) -> float:
    """Frames per second of `jobs` concurrent jobs, from the first POST until the last job is done.

    The end is the time in the job's document: exact without fast polling, which would slow the worker down.
    """
    begun = datetime.now(UTC)
    ids = []
    for number in range(jobs):
        with clip.open("rb") as file:
            # a different CRF each: the same video with the same options is no new job
            answer = client.post("/upscale", files={"file": file}, data={"crf": str(18 + number)})
        ids.append(answer.raise_for_status().json()["id"])
    finished = [_finished(client, job_id) for job_id in ids]
    for job_id in ids:
        client.delete(f"/jobs/{job_id}")
    return jobs * frames / (max(finished) - begun).total_seconds()


def _finished(client: httpx.Client, job_id: str) -> datetime:
    """Time at which a job finished, once finished. Raises RuntimeError if the job failed."""
    while True:
        job = client.get(f"/jobs/{job_id}").raise_for_status().json()
        if job["state"] in ("failed", "cancelled"):
            raise RuntimeError(f"job {job['state']}: {job['error']}")
        if job["state"] == "done":
            return datetime.fromisoformat(job["finished_at"])
        time.sleep(_POLL_SECONDS)


@dataclass(frozen=True)
class Running:
    """A running service."""

    client: httpx.Client
    """Client of the HTTP API."""
    grpc: str
    """host:port of the gRPC server."""
    parts: dict[str, int]
    """Process ids of api, worker, grpc and redis; further workers are not listed."""


@contextmanager
def service(folder: Path, model: str, workers: int, threads: int, **more: str) -> Iterator[Running]:
    """A running service with its data in `folder`; `more` are further environment variables."""
    settings = Settings()
    env = os.environ | {
        "SKIPVSR_DATA_DIR": str(folder),
        "SKIPVSR_WEIGHTS_DIR": str(settings.weights.absolute()),
        "SKIPVSR_MODEL": model,
        "SKIPVSR_THREADS": str(threads),
        "SKIPVSR_HTTP_PORT": "0",
        "SKIPVSR_GRPC_PORT": "0",
        **more,
    }
    skipvsr = [sys.executable, "-P", "-m", "cli"]
    log = folder / "up.log"
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        processes = [subprocess.Popen([*skipvsr, "up"], stdout=output, stderr=output, env=env)]
        stack.callback(_end, processes)
        while not (ready := re.search(r"is ready: (http://\S+)", log.read_text())):
            if processes[0].poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.2)
        client = stack.enter_context(httpx.Client(base_url=ready[1], timeout=60))
        processes += [
            subprocess.Popen([*skipvsr, "worker"], stdout=output, stderr=output, env=env) for _ in range(workers - 1)
        ]
        while len(client.get("/readyz").json()["workers"]) < workers:
            time.sleep(0.2)
        while not (grpc := re.search(r"gRPC server is ready: (\S+) ", log.read_text())):
            time.sleep(0.2)
        yield Running(client, grpc[1], _parts(processes[0].pid))


def _parts(parent: int) -> dict[str, int]:
    """Process ids of the children of `skipvsr up`, by command."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {_part(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")): int(pid) for pid in children}
    return {part: commands[part] for part in ("api", "worker", "grpc", "redis")}


def _part(command: list[bytes]) -> str:
    return "redis" if b"redis-server" in command[0] else command[4].decode()


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in reversed(processes):
        process.terminate()
        process.wait()


def measure(clip: Path, model_name: str, workers: Sequence[int], rounds: int, threads: int) -> Iterator[ServiceRow]:
    """A row for each number of workers; workers and the bare model have `threads` threads each."""
    settings = Settings()
    model = load_model(
        model_name,
        weights_dir=settings.weights,
        device=settings.device,
        precision=settings.precision,
        threads=threads,
    )
    with VideoReader(clip) as reader:
        frames = [frame.rgb for frame in reader]
    for number in workers:
        with (
            tempfile.TemporaryDirectory() as folder,
            service(Path(folder), model.name, number, threads) as running,
        ):
            in_thread(lambda: bare_fps(model, frames[: _DEFAULTS.chunk]))
            service_fps(running.client, clip, number, len(frames))  # warm
            bare, piped, served = [], [], []
            for _ in range(rounds):
                bare.append(in_thread(lambda: bare_fps(model, frames)))
                piped.append(pipeline_fps(model, clip, len(frames)))
                served.append(service_fps(running.client, clip, number, len(frames)))
        ratio = median(served) / median(bare)
        yield ServiceRow(number, number, threads, len(frames), median(bare), median(piped), median(served), ratio)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("clip", type=Path, nargs="?", default=EXAMPLE)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of each worker and the model; 0: one per core")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args(argv)
    rows = list(measure(args.clip, args.model, args.workers, args.rounds, args.threads))
    console, facts = Console(width=150), machine(load_model("tiny", weights_dir=Path()).device)
    console.print(one_line(facts), highlight=False)
    show(
        console,
        ["workers", "jobs at once", "frames a job", "bare model fps", "pipeline fps", "service fps", "service / bare"],
        [
            [str(n) for n in (r.workers, r.jobs, r.frames)]
            + [f"{value:.2f}" for value in (r.bare_fps, r.pipeline_fps, r.service_fps, r.ratio)]
            for r in rows
        ],
    )
    if args.json:
        write_json(args.json, {"machine": facts, "model": args.model, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
