"""Overhead of gRPC over the bare model: latency per frame, fairness and throughput of streams, batching, a soak.

    python -m benchmarks.grpc_latency [--parts latency fairness batching soak] [--model small] [--device cpu]

The server runs in `skipvsr up`; clients are threads here. Figures are medians and percentiles over all frames after a
warm-up.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import grpc_clients, grpc_races
from benchmarks.grpc_floor import Floor, Setup, floor, load
from benchmarks.report import machine, one_line
from benchmarks.service import service
from model.device import resolve_device
from model.engine.memory import keep_freed_memory
from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Request, Upscaler
from skipvsr_client.live import StreamClient

_WARM_UP: Final = 5
_TURN: Final = 25
"""Frames through the servers between turns of the model in this process."""
_PAUSE_SECONDS: Final = 0.003
"""Between an answer and the next frame, to imitate a camera slower than the network."""
Frames = NDArray[np.uint8]


def main() -> None:
    """Run the chosen parts, and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["latency", "fairness", "batching"], metavar="PART")
    Setup.add_options(parser)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of a race, in five turns")
    parser.add_argument("--soak-minutes", type=float, default=10.0)
    args = vars(parser.parse_args())
    parts, frames, seconds, minutes = (args.pop(name) for name in ("parts", "frames", "seconds", "soak_minutes"))
    setup = Setup(**args)
    print(one_line(machine(resolve_device(setup.device))))
    keep_freed_memory()  # client and server have equally large buffers
    if "batching" in parts:
        batching(setup, seconds)
    with server(setup) as (address, process_id):
        if "latency" in parts:
            show_latency(setup, latency(setup, address, frames))
        if "fairness" in parts:
            grpc_races.show(grpc_races.fairness(address, setup.width, setup.height, seconds))
        if "soak" in parts:
            grpc_clients.soak(address, process_id, minutes)


@contextmanager
def server(setup: Setup, **settings: str) -> Iterator[tuple[str, int]]:
    """(address, process id) of a gRPC server with further `settings`."""
    settings |= {
        "SKIPVSR_DEVICE": setup.device,
        "SKIPVSR_PRECISION": setup.precision,
        "SKIPVSR_LOG_LEVEL": "warning",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        service(Path(folder), setup.model, 1, setup.threads, **settings) as running,
    ):
        yield running.grpc, running.parts["grpc"]


def latency(setup: Setup, address: str, count: int) -> dict[str, NDArray[np.float64]]:
    """Milliseconds per frame, one frame at a time: round trip, bare model, and overhead of both servers.

    The two servers alternate frame by frame; the model in this process follows after every 25 frames.
    """
    frames = grpc_races.noise(setup.width, setup.height, count + _WARM_UP)
    sent: list[float] = []
    round_trips: list[float] = []
    reported: list[float] = []
    least: list[float] = []
    permit = threading.Semaphore(1)

    def one_by_one() -> Iterator[Frames]:
        for frame in frames:
            permit.acquire()
            time.sleep(_PAUSE_SECONDS)
            sent.append(time.perf_counter())
            yield frame

    with StreamClient(address) as client, floor(setup) as shortest:
        bare = _Bare(load(setup), frames)
        for answer in client.stream(one_by_one(), width=setup.width, height=setup.height, routing="off"):
            round_trips.append(time.perf_counter() - sent[-1])
            reported.append(answer.model_milliseconds / 1000)
            bare.expect(answer.data)
            del answer
            least.append(_shortest(shortest, frames[len(least)]))
            if len(bare.expected) == _TURN or len(round_trips) == len(frames):
                bare.catch_up()
            permit.release()
    trip, alone, inside, floors = (
        1000 * np.array(values[_WARM_UP:]) for values in (round_trips, bare.seconds, reported, least)
    )
    return {
        "bare model in this process": alone,
        "round trip through gRPC": trip,
        "added to the model's time there": trip - inside,
        "added by the shortest server": floors,
    }


def _shortest(shortest: Floor, frame: Frames) -> float:
    """Overhead of the minimal server, in seconds."""
    time.sleep(_PAUSE_SECONDS)
    return shortest.frame(frame)


class _Bare:
    """The model in this process: computes the same frames, and compares the server's answers."""

    def __init__(self, model: Upscaler, frames: list[Frames]) -> None:
        self.seconds: list[float] = []
        self.expected: list[bytes] = []
        """Digests of answers; kept answers would leave no warm memory for the next answer."""
        self._model = model
        self._frames = frames
        self._state: RecurrentState | None = None

    def expect(self, answer: bytes | memoryview) -> None:
        """Note an answer of the server."""
        self.expected.append(hashlib.sha256(answer).digest())

    def catch_up(self) -> None:
        """Compute the frames of the noted answers."""
        for digest in self.expected:
            begun = time.perf_counter()
            result = self._model.forward(self._frames[len(self.seconds)][None], self._state, lookahead=0, last=False)
            self.seconds.append(time.perf_counter() - begun)
            self._state = result.state
            assert hashlib.sha256(result.frames[0].tobytes()).digest() == digest
        self.expected.clear()


def show_latency(setup: Setup, found: dict[str, NDArray[np.float64]]) -> None:
    """Print percentiles."""
    count = len(next(iter(found.values())))
    print(f"\nlatency at {setup.size} RGB24, {setup.model}, {count} frames, one at a time, in ms:")
    print(f"{'':34}{'least':>8}{'p50':>8}{'p95':>8}{'p99':>8}")
    for name, values in found.items():
        print(f"{name:34}" + "".join(f"{np.percentile(values, p):8.2f}" for p in (0, 50, 95, 99)))


def batching(setup: Setup, seconds: float) -> None:
    """Print the throughput of four streams, singly and in batches of four, in the network and in the server."""
    sizes = [(64, 48), (160, 90), (setup.width, setup.height)]
    turn = seconds / grpc_races.ROUNDS
    print(f"\nfour streams of one size, {setup.model}, one by one and as a batch of four, taking turns:")
    for width, height in sizes:
        single, together = (1000 * float(np.median(times)) for times in _in_process(setup, width, height))
        print(
            f"  {width}x{height}, four frames in this process: {single:.1f} ms, {together:.1f} ms, "
            f"ratio {single / together:.2f}"
        )
    with server(setup, SKIPVSR_GRPC_BATCH="1") as (alone, _), server(setup, SKIPVSR_GRPC_BATCH="4") as (batched, _):
        for width, height in sizes:
            rates: dict[str, list[float]] = {alone: [], batched: []}
            for _ in range(grpc_races.ROUNDS):
                for address, found in rates.items():
                    outcome = grpc_races.race(address, [(width, height)] * 4, turn)
                    found.append(sum(frames for frames, _ in outcome) / turn)
            single, together = (float(np.median(found)) for found in rates.values())
            print(
                f"  {width}x{height}, four clients of the server: {single:.1f} frames/s, {together:.1f} frames/s, "
                f"ratio {together / single:.2f}"
            )


def _in_process(setup: Setup, width: int, height: int) -> tuple[list[float], list[float]]:
    """Seconds for a frame of each of four streams: (singly, in a batch)."""
    model = load(setup)
    states: dict[int, list[RecurrentState | None]] = {1: [None] * 4, 4: [None] * 4}
    times: dict[int, list[float]] = {1: [], 4: []}
    for index, frame in enumerate(grpc_races.noise(width, height, 12)):
        for count, kept in states.items():
            requests = [Request(np.roll(frame, stream)[None], kept[stream], 0, last=False) for stream in range(4)]
            begun = time.perf_counter()
            for start in range(0, 4, count):
                for stream, result in enumerate(model.forward_many(requests[start : start + count]), start):
                    assert isinstance(result, ChunkResult)
                    kept[stream] = result.state
            if index >= 2:
                times[count].append(time.perf_counter() - begun)
    return times[1], times[4]


if __name__ == "__main__":
    main()
