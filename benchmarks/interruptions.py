"""How soon a job shows progress, how soon it stops, and what the observer of the network costs.

    python -m benchmarks.interruptions [--model basicvsr-reds] [--size 1280x720] [--frames 8] [--json OUT]

A real service processes a clip of one chunk. At an early, a middle and a late point of the chunk, a job is paused or
cancelled; the clock runs from the request until the document shows the new state. The observer is measured in pairs of
calls of the network with and without it, by the CPU time of one thread: other load counts for neither.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import torch

from benchmarks.report import machine, write_json
from benchmarks.service import service
from jobs.settings import Settings
from media.encode.segment import SegmentWriter
from media.probe import probe
from media.reader import Pixels
from media.spec import output_spec
from model.engine.loading import load_model
from model.engine.work import Observer
from pipeline.progress import ProgressCounter

_EXAMPLE = Path(__file__).parents[1] / "examples" / "cups.mp4"
_POLL_SECONDS = 0.05
_POINTS = (("pause", 0.1), ("cancel", 0.4), ("pause", 0.7))
"""Request, and the part of the frames that is done before."""


def pictures(width: int, height: int, count: int) -> Iterator[Pixels]:
    """A picture of smooth noise that moves by three pixels a frame."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (height // 16 + 2, width // 16 + 2 + count, 3), np.uint8)
    picture = small.repeat(16, 0).repeat(16, 1)
    for number in range(count):
        yield picture[:height, 3 * number : 3 * number + width]


def make_clip(path: Path, width: int, height: int, count: int) -> None:
    """Write a clip of moving noise."""
    like = replace(output_spec(probe(_EXAMPLE), scale=1), width=width, height=height)
    with SegmentWriter(path, like) as writer:
        for number, picture in enumerate(pictures(width, height, count)):
            writer.write(picture, number * 512)


def stopped(client: httpx.Client, clip: Path, request: str, part: float, frames: int) -> dict[str, Any]:
    """Submit a job, and pause or cancel the job after a part of its frames."""
    with clip.open("rb") as file:
        form = {"chunk": str(frames), "scale": "2"}
        job = client.post("/upscale", files={"file": file}, data=form).raise_for_status().json()
    path, first, eta = f"/jobs/{job['id']}", None, None
    while job["progress"]["frames_done"] < max(1, part * frames):
        time.sleep(_POLL_SECONDS)
        job = client.get(path).raise_for_status().json()
        running = job["started_at"] and time.time() - datetime.fromisoformat(job["started_at"]).timestamp()
        eta = eta or (running if job["progress"]["eta_seconds"] is not None else None)
        first = first or (running if job["progress"]["frames_done"] else None)
    before = job["progress"]
    begun = time.perf_counter()
    job = client.post(f"{path}/{request}").raise_for_status().json()
    shown = time.perf_counter() - begun
    while job["state"] == "running":
        time.sleep(_POLL_SECONDS)
        job = client.get(path).raise_for_status().json()
    seconds = time.perf_counter() - begun
    client.post(f"{path}/cancel")
    return {
        "request": request,
        "frames_done": before["frames_done"],
        "frame_seconds": 1 / before["fps"],
        "shown_after_seconds": shown,
        "stopped_after_seconds": seconds,
        "first_frame_after_seconds": first,
        "first_eta_after_seconds": eta,
        "state": job["state"],
    }


def overhead(name: str, width: int, height: int, frames: int, rounds: int) -> dict[str, float]:
    """CPU seconds of a chunk with a job's observer over those without, as the median of pairs."""
    model = load_model(name, weights_dir=Settings().weights, threads=1)
    clip: Any = np.stack(list(pictures(width, height, frames)))
    counter = ProgressCounter(frames, 0)
    observe = partial(counter.compute, counter.begin_chunk(frames))

    def seconds(observer: Observer | None) -> float:
        begun = time.thread_time()
        model.forward(clip, None, lookahead=0, last=True, observer=observer)
        return time.thread_time() - begun

    seconds(None)
    ratios = []
    for number in range(rounds):
        if number % 2:
            plain, observed = seconds(None), seconds(observe)
        else:
            observed, plain = seconds(observe), seconds(None)
        ratios.append(observed / plain)
    return {"median_ratio": median(ratios), "lowest_ratio": min(ratios), "highest_ratio": max(ratios)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="basicvsr-reds")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20, help="pairs for the observer")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    width, height = map(int, args.size.split("x"))
    results: dict[str, Any] = {
        "machine": machine(torch.device("cpu")),
        "model": args.model,
        "size": args.size,
        "frames": args.frames,
    }
    results["observer"] = overhead("small", 320, 180, 8, args.rounds)
    print(results["observer"], flush=True)
    results["stops"] = []
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        make_clip(clip, width, height, args.frames)
        with service(Path(folder), args.model, 1, 0, SKIPVSR_MIN_FREE_GB="0") as running:
            for request, part in _POINTS:
                results["stops"].append(stopped(running.client, clip, request, part, args.frames))
                print(results["stops"][-1], flush=True)
    if args.json:
        write_json(args.json, results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
