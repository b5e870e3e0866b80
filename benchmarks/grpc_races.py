"""Several busy gRPC streams at once: fairness of the device time, and throughput against one stream alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from skipvsr_client.live import StreamClient

ROUNDS: Final = 5
"""Rounds of alternating contenders; figures are medians."""
_WARM_UP: Final = 5
_FRAMES: Final = 8
"""Different frames of a stream."""
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Race:
    """Several busy streams at once."""

    name: str
    seconds: float
    """Of all rounds, like frames and device seconds."""
    frames: list[int]
    device_seconds: list[float]
    throughput: float
    """Sum over streams of frames divided by the frames of one stream alone of the same size; median of the rounds."""

    @property
    def unfairness(self) -> float:
        """Largest deviation of a stream's device time from the mean, as a fraction of the mean."""
        mean = sum(self.device_seconds) / len(self.device_seconds)
        return max(abs(value - mean) / mean for value in self.device_seconds)


def noise(width: int, height: int, count: int) -> list[Frames]:
    """Frames of moving noise over a gradient: every tile changes, so the mask reuses nothing."""
    grain = np.random.default_rng(0).integers(0, 60, (height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 180, width, dtype=np.uint8)[None, :, None]
    return [np.roll(grain, 2 * index, axis=1) + ramp for index in range(count)]


def fairness(address: str, width: int, height: int, seconds: float = 10.0) -> list[Race]:
    """Races of four streams of different sizes and of the same size, against one stream of each size alone.

    Raises RuntimeError if a stream alone gets no answer in its turn, a fifth of `seconds`.
    """
    different = [(width, height), (width, height // 2), (width // 2, height), (width // 2, height // 2)]
    fields = {"of different sizes": different, "of the same size": [(width, height)] * 4}
    outcomes: dict[str, list[list[tuple[int, float]]]] = {name: [] for name in fields}
    throughput: dict[str, list[float]] = {name: [] for name in fields}
    turn = seconds / ROUNDS
    for _ in range(ROUNDS):
        alone = {size: race(address, [size], turn)[0][0] for size in different}
        if not all(alone.values()):
            raise RuntimeError(f"no answer in {turn:.1f} s: give more --seconds")
        for name, sizes in fields.items():
            outcome = race(address, sizes, turn)
            outcomes[name].append(outcome)
            throughput[name].append(sum(count / alone[size] for (count, _), size in zip(outcome, sizes, strict=True)))
    races = []
    for name, rounds in outcomes.items():
        streams = list(zip(*rounds, strict=True))
        frames = [sum(count for count, _ in stream) for stream in streams]
        busy = [sum(device for _, device in stream) for stream in streams]
        races.append(Race(name, seconds, frames, busy, float(np.median(throughput[name]))))
    return races


def show(races: Sequence[Race]) -> None:
    """Print a line for each race."""
    print("\nfour streams at once, each as fast as answers arrive:")
    for each in races:
        print(
            f"  {each.name}: frames {each.frames}, device seconds {[round(v, 2) for v in each.device_seconds]}, "
            f"furthest from the mean {each.unfairness:.1%}; throughput of all over one alone {each.throughput:.3f}"
        )


def race(address: str, sizes: Sequence[tuple[int, int]], seconds: float) -> list[tuple[int, float]]:
    """(frames, device seconds) of each stream within `seconds`, while all streams are busy."""
    start = _Start(len(sizes))
    runners = [_Runner(address, width, height, start, seconds) for width, height in sizes]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    return [(runner.count, runner.busy) for runner in runners]


class _Start:
    """The start of a race, once all runners are ready. Waiting runners keep streaming, to keep queues short."""

    def __init__(self, parties: int) -> None:
        self.time = float("inf")
        self._barrier = threading.Barrier(parties, action=self._now)

    def ready(self) -> None:
        """Report one more ready runner."""
        threading.Thread(target=self._barrier.wait, daemon=True).start()

    def _now(self) -> None:
        self.time = time.perf_counter()


class _Runner(threading.Thread):
    """A stream that sends frames until the end of the race, and counts answers."""

    def __init__(self, address: str, width: int, height: int, start: _Start, seconds: float) -> None:
        super().__init__()
        self.count, self.busy = 0, 0.0
        self._address, self._width, self._height = address, width, height
        self._begin, self._seconds = start, seconds

    def run(self) -> None:
        with StreamClient(self._address) as client:
            stream = client.stream(self._endless(), width=self._width, height=self._height, routing="off")
            for answer in stream:
                if answer.sequence == _WARM_UP:
                    self._begin.ready()
                if self._begin.time <= time.perf_counter() < self._begin.time + self._seconds:
                    self.count += 1
                    self.busy += answer.model_milliseconds / 1000

    def _endless(self) -> Iterator[Frames]:
        frames = noise(self._width, self._height, _FRAMES)
        index = 0
        while time.perf_counter() < self._begin.time + self._seconds:
            yield frames[index % _FRAMES]
            index += 1
