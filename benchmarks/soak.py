"""Memory of API, gRPC server, worker and Redis under load, for half an hour.

    python -m benchmarks.soak [CLIP] [--minutes 30] [--model small] [--json OUT]
    python -m benchmarks.soak --model tiny --every 5 --streams 0 --sample-seconds 5

The worker always has a waiting job, and two gRPC streams run all the time, each restarted after 200 frames. `--every`
submits a job each N seconds instead. Every sample has the resident memory of each process and its children, and the
anonymous memory of the process alone. The worker joins the segments of a video, so its memory includes the joiner's.
The first tenth of the samples is warm-up.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import cast

import httpx
import numpy as np

from benchmarks.report import machine, one_line, write_json
from benchmarks.service import EXAMPLE, Running, service
from media.reader import VideoReader
from model.device import resolve_device
from skipvsr_client import SkipVsrError
from skipvsr_client.live import StreamClient

_STREAM_FRAMES = 200
_PARTS = 12
_MIB = 1 << 20


class Load:
    """Jobs and continuous streams, until `end`.

    Args:
        running: the service.
        clip: the video of jobs and streams.
        every: seconds from one job to the next; 0: the next job always waits.
        streams: number of gRPC streams at the same time.
    """

    def __init__(self, running: Running, clip: Path, every: float, streams: int) -> None:
        self._running, self._clip, self._every = running, clip, every
        with VideoReader(clip) as reader:
            self._frames = [frame.rgb.astype(np.uint8) for frame in reader]
        self.end = threading.Event()
        self.counts = {
            "jobs done": 0,
            "jobs not done": 0,
            "requests failed": 0,
            "streams ended": 0,
            "streams failed": 0,
            "frames streamed": 0,
        }
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._jobs)]
        self._threads += [threading.Thread(target=self._streams) for _ in range(streams)]

    def start(self) -> None:
        """Start the load."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after the current jobs and streams."""
        self.end.set()
        for thread in self._threads:
            thread.join()

    def _count(self, event: str, number: int = 1) -> None:
        with self._lock:
            self.counts[event] += number

    def _jobs(self) -> None:
        """Submit the next job in time; fetch the results of finished jobs, and delete the jobs."""
        waiting: set[str] = set()
        number, begun = 0, time.monotonic()
        while not self.end.is_set():
            try:
                while time.monotonic() - begun >= number * self._every if self._every else len(waiting) < 2:
                    number += 1
                    waiting.add(self._post(number))
                for job_id in list(waiting):
                    job = self._running.client.get(f"/jobs/{job_id}").raise_for_status().json()
                    if job["state"] in ("done", "failed", "cancelled"):
                        waiting.remove(job_id)
                        self._count("jobs done" if job["state"] == "done" else "jobs not done")
                        self._fetch(job_id)
            except httpx.HTTPError as error:
                print(error, flush=True)
                self._count("requests failed")
            self.end.wait(0.5)
        for job_id in waiting:
            self._running.client.delete(f"/jobs/{job_id}")

    def _post(self, number: int) -> str:
        with self._clip.open("rb") as file:
            fields = {"crf": str(18 + number % 10)}
            answer = self._running.client.post("/upscale", files={"file": file}, data=fields)
        return str(answer.raise_for_status().json()["id"])

    def _fetch(self, job_id: str) -> None:
        with self._running.client.stream("GET", f"/jobs/{job_id}/result") as answer:
            for _ in answer.iter_bytes(1 << 20):
                pass
        self._running.client.delete(f"/jobs/{job_id}").raise_for_status()

    def _streams(self) -> None:
        height, width = self._frames[0].shape[:2]
        while not self.end.is_set():
            numbers = takewhile(lambda _: not self.end.is_set(), range(_STREAM_FRAMES))
            frames = (self._frames[number % len(self._frames)] for number in numbers)
            try:
                with StreamClient(self._running.grpc) as client:
                    for _ in client.stream(frames, width=width, height=height, chunk=2, lookahead=1):
                        self._count("frames streamed")
                self._count("streams ended")
            except SkipVsrError as error:
                print(error, flush=True)
                self._count("streams failed")


def anonymous(pid: int) -> int:
    """Memory of a process without its files and children, in bytes. Leaks are here; other processes change nothing."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def resident(pid: int) -> int:
    """Resident memory of a process and its descendants, in bytes."""
    total, pids = 0, [pid]
    while pids:
        here = pids.pop()
        try:
            total += int(Path(f"/proc/{here}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            pids += [int(child) for task in _tasks(here) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def _tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


Samples = list[dict[str, float]]
"""Samples: seconds since the start, and bytes of each part and of its main process alone."""
_ALONE = " alone"


def sample(parts: dict[str, int]) -> dict[str, float]:
    """Bytes of each part, and of its main process alone."""
    found: dict[str, float] = {}
    for part, pid in parts.items():
        found |= {part: resident(pid), part + _ALONE: anonymous(pid)}
    return found


def soak(load: Load, parts: dict[str, int], minutes: float, every: float, note: Callable[[Samples], None]) -> None:
    """Run the load for `minutes`; call `note` with all samples after each sample."""
    begun, samples = time.monotonic(), Samples()
    load.start()
    try:
        while len(samples) * every < 60 * minutes:  # a suspended machine does not shorten this
            samples.append({"seconds": time.monotonic() - begun} | sample(parts))
            note(samples)
            time.sleep(every)
    finally:
        load.stop()


def rows(samples: Sequence[dict[str, float]], parts: Sequence[str]) -> list[list[str]]:
    """Memory of each part after the warm-up, in MiB: peak of each third, growth, last sample, and `slope`."""
    steady = samples[len(samples) // 10 :]
    third = max(1, len(steady) // 3)
    lines = []
    for part in parts:
        values = [sample[part] / _MIB for sample in steady]
        first, middle, last = max(values[:third]), max(values[third:-third] or values), max(values[-third:])
        hourly = slope([each["seconds"] for each in steady], values)
        figures = (f"{value:.0f}" for value in (first, middle, last))
        lines.append([part, *figures, f"{last - first:+.0f}", f"{values[-1]:.0f}", f"{hourly:+.1f}"])
    return lines


def slope(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Growth in an hour of the least values of a dozen parts: short-lived children count only if they accumulate."""
    size = max(1, len(values) // _PARTS)
    least = [
        min(range(first, first + size), key=values.__getitem__) for first in range(0, len(values) - size + 1, size)
    ]
    if len(least) < 2:
        return 0.0
    return 3600 * float(np.polyfit([seconds[at] for at in least], [values[at] for at in least], 1)[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the load, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, nargs="?", default=EXAMPLE)
    parser.add_argument("--every", type=float, default=0.0, help="seconds from one job to the next; 0: without a pause")
    parser.add_argument("--streams", type=int, default=2, help="gRPC streams at the same time")
    parser.add_argument("--sample-seconds", type=float, default=10.0, help="seconds from one sample to the next")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--model", default="small")
    parser.add_argument("--threads", type=int, default=0, help="threads of worker and of gRPC server; 0: one per core")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args(argv)
    facts = machine(resolve_device("auto"))
    found: dict[str, object] = {}

    with tempfile.TemporaryDirectory() as folder, service(Path(folder), args.model, 1, args.threads) as running:
        load = Load(running, args.clip, args.every, args.streams)

        def note(samples: Samples) -> None:
            found.update({"machine": facts, "counts": load.counts, "samples": samples})
            if args.json:
                write_json(args.json, found)

        soak(load, running.parts, args.minutes, args.sample_seconds, note)
    samples, counts = cast(Samples, found["samples"]), load.counts
    parts = [name for name in samples[0] if name != "seconds"]
    print(one_line(facts))
    print(f"{args.minutes:g} minutes: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    print(
        f"{'MiB':14}"
        + "".join(f"{name:>14}" for name in ("first third", "middle", "last third", "growth", "at the end", "per hour"))
    )
    for name, *figures in rows(samples, parts):
        print(f"{name:14}" + "".join(f"{figure:>14}" for figure in figures))


if __name__ == "__main__":
    main()
