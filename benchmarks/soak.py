"""Memory of API, gRPC server and worker under full load for half an hour.

    python -m benchmarks.soak [CLIP] [--minutes 30] [--model small] [--json OUT]

The worker always has a waiting job, and two gRPC streams run all the time, each restarted after 200 frames. Every ten
seconds, the resident memory of each process and its children is sampled. The first tenth of the samples is warm-up.
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

_SAMPLE_SECONDS = 10.0
_STREAMS = 2
_STREAM_FRAMES = 200
_MIB = 1 << 20


class Load:
    """Jobs back to back and continuous streams, until `end`."""

    def __init__(self, running: Running, clip: Path) -> None:
        self._running, self._clip = running, clip
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
        self._threads += [threading.Thread(target=self._streams) for _ in range(_STREAMS)]

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
        """Keep two jobs submitted, one of them waiting; delete finished jobs."""
        waiting: set[str] = set()
        number = 0
        while not self.end.is_set():
            try:
                while len(waiting) < 2:
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
"""Samples: seconds since the start, and bytes of each part."""


def soak(running: Running, clip: Path, minutes: float, note: Callable[[Samples, dict[str, int]], None]) -> None:
    """Run the load for `minutes`; call `note` with all samples and counts after each sample."""
    load = Load(running, clip)
    begun, samples = time.monotonic(), Samples()
    load.start()
    try:
        while len(samples) * _SAMPLE_SECONDS < 60 * minutes:  # a suspended machine does not shorten this
            elapsed = time.monotonic() - begun
            samples.append({"seconds": elapsed} | {part: resident(pid) for part, pid in running.parts.items()})
            note(samples, load.counts)
            time.sleep(_SAMPLE_SECONDS)
    finally:
        load.stop()


def rows(samples: Sequence[dict[str, float]], parts: Sequence[str]) -> list[list[str]]:
    """Memory of each part after the warm-up, in MiB: peak of each third, growth, last sample."""
    steady = samples[len(samples) // 10 :]
    third = max(1, len(steady) // 3)
    lines = []
    for part in parts:
        values = [sample[part] / _MIB for sample in steady]
        first, middle, last = max(values[:third]), max(values[third:-third] or values), max(values[-third:])
        figures = (first, middle, last, last - first, values[-1])
        lines.append([part, *(f"{value:{'+' if index == 3 else ''}.0f}" for index, value in enumerate(figures))])
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Run the load, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, nargs="?", default=EXAMPLE)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--model", default="small")
    parser.add_argument("--threads", type=int, default=0, help="threads of worker and of gRPC server; 0: one per core")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args(argv)
    facts = machine(resolve_device("auto"))
    found: dict[str, object] = {}

    def note(samples: Samples, counts: dict[str, int]) -> None:
        found.update({"machine": facts, "counts": counts, "samples": samples})
        if args.json:
            write_json(args.json, found)

    with tempfile.TemporaryDirectory() as folder, service(Path(folder), args.model, 1, args.threads) as running:
        soak(running, args.clip, args.minutes, note)
        parts = list(running.parts)
    samples, counts = cast(Samples, found["samples"]), cast("dict[str, int]", found["counts"])
    print(one_line(facts))
    print(f"{args.minutes:g} minutes: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    print(
        f"{'MiB':8}"
        + "".join(f"{name:>14}" for name in ("first third", "middle", "last third", "growth", "at the end"))
    )
    for name, *figures in rows(samples, parts):
        print(f"{name:8}" + "".join(f"{figure:>14}" for figure in figures))


if __name__ == "__main__":
    main()
