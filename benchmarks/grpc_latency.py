"""What gRPC adds to the bare model: latency a frame, fairness and throughput of several streams, batching, and a soak.

    python -m benchmarks.grpc_latency [--parts latency fairness batching soak] [--model small] [--device cpu]

The server is a process of its own; clients are threads here. Medians and percentiles over all frames after a warm-up.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.grpc_floor import floor, load
from benchmarks.report import machine
from commands.shared.embedded_redis import EmbeddedRedis
from model.device import resolve_device
from model.engine.memory import keep_freed_memory
from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Request
from service.rpc.client import StreamClient

_WARM_UP = 5
_TURN = 25
_ROUNDS = 5
"""Of four streams with and without batching, and of streams alone and together, in turns."""
_PAUSE_SECONDS = 0.003
"""Between an answer and the next frame, as with a camera that is slower than the network."""
Frames = NDArray[np.uint8]


def main() -> None:
    """Measure the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["latency", "fairness", "batching"], metavar="PART")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--size", default="320x180")
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        help="of a race of streams, its five turns together; slow machines need more",
    )
    parser.add_argument("--soak-minutes", type=float, default=10.0)
    args = parser.parse_args()
    print(", ".join(f"{key} {value}" for key, value in machine(resolve_device(args.device)).items()))
    keep_freed_memory()  # the client's buffers are as large as the server's
    if "batching" in args.parts:
        batching(args)
    with server(args) as (address, process):
        if "latency" in args.parts:
            show_latency(args, latency(args, address))
        if "fairness" in args.parts:
            show_fairness(fairness(args, address, args.seconds))
        if "soak" in args.parts:
            soak(args, address, process)


@contextmanager
def server(args: argparse.Namespace, **settings: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server process with further settings: its address, and the process."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "redis", persist=False) as redis:
        env = os.environ | {
            "SKIPVSR_DATA_DIR": folder,
            "SKIPVSR_REDIS_URL": redis.url,
            "SKIPVSR_GRPC_PORT": "0",
            "SKIPVSR_MODEL": args.model,
            "SKIPVSR_DEVICE": args.device,
            "SKIPVSR_PRECISION": args.precision,
            "SKIPVSR_THREADS": str(args.threads),
            "SKIPVSR_WEIGHTS_DIR": str(Path("data/weights").absolute()),
            "SKIPVSR_LOG_LEVEL": "warning",
            **settings,
        }
        process = subprocess.Popen([sys.executable, "-m", "cli", "grpc"], env=env, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            match = re.search(r"is ready: (\S+) ", process.stdout.readline())
            assert match
            yield match[1], process
        finally:
            process.terminate()
            process.wait(30)


def clip(args: argparse.Namespace, count: int, size: tuple[int, int] | None = None) -> list[Frames]:
    """Frames of moving noise over a gradient: nothing stays still, so nothing is skipped."""
    width, height = size or _size(args.size)
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 180, width, dtype=np.uint8)[None, :, None]
    return [np.roll(noise, 2 * index, axis=1) + ramp for index in range(count)]


def latency(args: argparse.Namespace, address: str) -> dict[str, NDArray[np.float64]]:
    """One frame at a time, in ms: the client's round trip, the bare model's time, and what the shortest server adds.

    The two servers take turns frame by frame, the model in this process comes after every 25.
    """
    frames = clip(args, args.frames + _WARM_UP)
    width, height = _size(args.size)
    model = load(args)
    state: RecurrentState | None = None
    sent: list[float] = []
    round_trips: list[float] = []
    reported: list[float] = []
    bare: list[float] = []
    least: list[float] = []
    answered: list[bytes] = []  # digests: kept answers would leave no warm memory for the next
    permit = threading.Semaphore(1)

    def one_by_one() -> Iterator[Frames]:
        for frame in frames:
            permit.acquire()
            time.sleep(_PAUSE_SECONDS)
            sent.append(time.perf_counter())
            yield frame

    with StreamClient(address) as client, floor(args) as shortest:
        for answer in client.stream(one_by_one(), width=width, height=height, routing="off"):
            round_trips.append(time.perf_counter() - sent[-1])
            reported.append(answer.model_milliseconds / 1000)
            answered.append(hashlib.sha256(answer.data).digest())
            del answer
            time.sleep(_PAUSE_SECONDS)
            least.append(shortest.frame(frames[len(least)]))
            if len(answered) == _TURN or len(round_trips) == len(frames):
                for expected in answered:
                    begun = time.perf_counter()
                    result = model.forward(frames[len(bare)][None], state, lookahead=0, last=False)
                    bare.append(time.perf_counter() - begun)
                    state = result.state
                    assert hashlib.sha256(result.frames[0].tobytes()).digest() == expected
                answered.clear()
            permit.release()
    trip, alone, inside, floors = (
        1000 * np.array(values[_WARM_UP:]) for values in (round_trips, bare, reported, least)
    )
    return {
        "bare model in this process": alone,
        "round trip through gRPC": trip,
        "added to the model's time there": trip - inside,
        "added by the shortest server": floors,
    }


def show_latency(args: argparse.Namespace, found: dict[str, NDArray[np.float64]]) -> None:
    """Print percentiles."""
    count = len(next(iter(found.values())))
    print(f"\nlatency at {args.size} RGB24, {args.model}, {count} frames, one at a time, in ms:")
    print(f"{'':34}{'least':>8}{'p50':>8}{'p95':>8}{'p99':>8}")
    for name, values in found.items():
        print(f"{name:34}" + "".join(f"{np.percentile(values, p):8.2f}" for p in (0, 50, 95, 99)))


@dataclass(frozen=True)
class Race:
    """Several streams at once, all of them busy."""

    name: str
    seconds: float
    """Of all rounds, as are frames and device seconds."""
    frames: list[int]
    device_seconds: list[float]
    throughput: float
    """Of all together: the sum of what each got, as a fraction of what one of its size got alone in the same round;
    the median of the rounds."""

    @property
    def unfairness(self) -> float:
        """How far the device time of a stream is from the mean of all, at most; a fraction of the mean."""
        mean = sum(self.device_seconds) / len(self.device_seconds)
        return max(abs(value - mean) / mean for value in self.device_seconds)


def fairness(args: argparse.Namespace, address: str, seconds: float = 10.0) -> list[Race]:
    """Four streams at once, of different sizes and of the same; one of each size alone. They take turns."""
    width, height = _size(args.size)
    different = [(width, height), (width, height // 2), (width // 2, height), (width // 2, height // 2)]
    fields = {"of different sizes": different, "of the same size": [(width, height)] * 4}
    outcomes: dict[str, list[list[tuple[int, float]]]] = {name: [] for name in fields}
    throughput: dict[str, list[float]] = {name: [] for name in fields}
    turn = seconds / _ROUNDS
    for _ in range(_ROUNDS):
        alone = {size: _race(args, address, [size], turn)[0][0] for size in different}
        for name, sizes in fields.items():
            outcome = _race(args, address, sizes, turn)
            outcomes[name].append(outcome)
            throughput[name].append(sum(count / alone[size] for (count, _), size in zip(outcome, sizes, strict=True)))
    races = []
    for name, rounds in outcomes.items():
        streams = list(zip(*rounds, strict=True))
        frames = [sum(count for count, _ in stream) for stream in streams]
        busy = [sum(device for _, device in stream) for stream in streams]
        races.append(Race(name, seconds, frames, busy, float(np.median(throughput[name]))))
    return races


def show_fairness(races: Sequence[Race]) -> None:
    """Print a line for each."""
    print("\nfour streams at once, each as fast as it gets answers:")
    for race in races:
        print(
            f"  {race.name}: frames {race.frames}, device seconds {[round(v, 2) for v in race.device_seconds]}, "
            f"furthest from the mean {race.unfairness:.1%}; throughput of all over one alone {race.throughput:.3f}"
        )


class _Start:
    """When a race begins: once all who take part are ready. Nobody stops for it, so that no answers pile up."""

    def __init__(self, parties: int) -> None:
        self.time = float("inf")
        self._barrier = threading.Barrier(parties, action=self._now)

    def ready(self) -> None:
        """One more is ready."""
        threading.Thread(target=self._barrier.wait, daemon=True).start()

    def _now(self) -> None:
        self.time = time.perf_counter()


def _race(
    args: argparse.Namespace, address: str, sizes: list[tuple[int, int]], seconds: float
) -> list[tuple[int, float]]:
    """(frames, device seconds) that each stream got within the time, all of them busy throughout."""
    start = _Start(len(sizes))
    outcome: list[tuple[int, float]] = [(0, 0.0)] * len(sizes)

    def run(number: int) -> None:
        width, height = sizes[number]
        frames = clip(args, 8, sizes[number])

        def endless() -> Iterator[Frames]:
            index = 0
            while time.perf_counter() < start.time + seconds:
                yield frames[index % 8]
                index += 1

        with StreamClient(address) as client:
            count, busy = 0, 0.0
            for answer in client.stream(endless(), width=width, height=height, routing="off"):
                if answer.sequence == _WARM_UP:
                    start.ready()
                if start.time <= time.perf_counter() < start.time + seconds:
                    count += 1
                    busy += answer.model_milliseconds / 1000
            outcome[number] = (count, busy)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def batching(args: argparse.Namespace) -> None:
    """Does it pay to put four streams' frames through the network as one batch? The network alone, and the server."""
    sizes = [(64, 48), (160, 90), _size(args.size)]
    seconds = args.seconds / _ROUNDS
    print(f"\nfour streams of one size, {args.model}, one by one and as a batch of four, taking turns:")
    for size in sizes:
        single, together = (1000 * float(np.median(times)) for times in _in_process(args, size))
        print(
            f"  {size[0]}x{size[1]}, four frames in this process: {single:.1f} ms, {together:.1f} ms, "
            f"ratio {single / together:.2f}"
        )
    with server(args, SKIPVSR_GRPC_BATCH="1") as (alone, _), server(args, SKIPVSR_GRPC_BATCH="4") as (batched, _):
        for size in sizes:
            rates: dict[str, list[float]] = {alone: [], batched: []}
            for _ in range(_ROUNDS):
                for address, found in rates.items():
                    found.append(sum(frames for frames, _ in _race(args, address, [size] * 4, seconds)) / seconds)
            single, together = (float(np.median(found)) for found in rates.values())
            print(
                f"  {size[0]}x{size[1]}, four clients of the server: {single:.1f} frames/s, {together:.1f} frames/s, "
                f"ratio {together / single:.2f}"
            )


def _in_process(args: argparse.Namespace, size: tuple[int, int]) -> tuple[list[float], list[float]]:
    """Seconds for a frame of each of four streams: one by one, and as a batch."""
    model = load(args)
    frames = clip(args, 12, size)
    states: dict[int, list[RecurrentState | None]] = {1: [None] * 4, 4: [None] * 4}
    times: dict[int, list[float]] = {1: [], 4: []}
    for index, frame in enumerate(frames):
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


_CLIENT = """
import sys, random
import numpy as np
from service.rpc.client import StreamClient
address, seed = sys.argv[1], int(sys.argv[2])
chance = random.Random(seed)
while True:
    width, height = chance.choice([(32, 24), (64, 48), (160, 90)])
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with StreamClient(address) as client:
        stream = client.stream((frame for _ in range(40)), width=width, height=height, chunk=chance.choice([1, 2]))
        assert len(list(stream)) == 40
    print("ended", flush=True)
"""


def soak(args: argparse.Namespace, address: str, process: subprocess.Popen[str]) -> None:
    """Client processes that stream until SIGKILL hits them at random; the server's memory and descriptors."""
    chance = random.Random(0)
    end = time.monotonic() + 60 * args.soak_minutes
    memory: list[int] = []
    counts = {"streams ended": 0, "clients killed": 0, "clients failed": 0}
    descriptors = _descriptors(process.pid)

    def one_after_another(seed: int) -> None:
        mine = random.Random(seed)
        while time.monotonic() < end:
            command = [sys.executable, "-c", _CLIENT, address, str(mine.randrange(10**6))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
                try:
                    client.wait(mine.uniform(2, 12))
                    counts["clients failed"] += 1  # nothing but the kill below ends it
                except subprocess.TimeoutExpired:
                    client.kill()
                    counts["clients killed"] += 1
                assert client.stdout
                counts["streams ended"] += len(client.stdout.read().splitlines())

    threads = [threading.Thread(target=one_after_another, args=(chance.randrange(10**6),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(2)
        memory.append(_resident(process.pid))
    time.sleep(2)
    third = max(1, len(memory) // 3)
    print(
        f"\nsoak of {args.soak_minutes:g} minutes: {counts}; server's memory in MiB: highest of the first third "
        f"{max(memory[:third]) >> 20}, of the last {max(memory[-third:]) >> 20}, at the end "
        f"{_resident(process.pid) >> 20}; its descriptors: {descriptors} before, {_descriptors(process.pid)} after"
    )


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return int(width), int(height)


if __name__ == "__main__":
    main()
