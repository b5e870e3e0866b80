"""Measure the dense network's time from the steps of routed chunks; speedup is dense time over routed time.

Most chunks contain steps that run on a whole frame without gates, as in the dense network: the first frame of a scene,
the start of the backward branch, and every frame that moves everywhere. Their times are kept for each frame size. The
dense time of a chunk is its own time, with the time of each step replaced by the kept time of a dense step. No frame
runs twice for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Final, Literal

import torch

from model.engine.clock import Clock
from model.network.basicvsr import BasicVSR
from model.network.macs import step_macs

Kind = Literal["flow", "alignment", "backward", "forward", "output"]
"""Flow in one direction, warping of the neighbouring frame's features, the two trunks, and the upsampler."""
KEPT: Final = 32
"""Latest measurements of each kind and size."""
FLOW_PACE, OUTPUT_PACE = 1.5, 1.5
"""Time of a multiply-accumulate of the flow and of the upsampler, over that of a trunk. Measured on one thread: 1.1 and
1.3 for BasicVSR, 2.3 and 1.9 for `small`."""
Mark = float | torch.cuda.Event
"""A moment: seconds, or an event on a GPU."""


class Stopwatch:
    """Measures computing time on a device.

    On a CPU this is the time of the calling thread, which takes part in all work of the network. Time in which encoders
    or other streams had the cores does not count. On a GPU this is the time between two events of the stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._clock = device, Clock(device)

    @property
    def threads(self) -> int:
        """Number of threads whose time a difference of marks stands for."""
        return self._clock.threads()

    def mark(self) -> Mark:
        """Return the present."""
        if self._device.type != "cuda":
            return self._clock.computing()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))  # by default that of the first GPU, for `cuda:1` too
        return event


@dataclass
class Step:
    """One or several equal steps that ran together."""

    kind: Kind
    whole: bool
    """Whether they ran as in the dense network: on the whole frame, without gates."""
    count: int
    threads: int
    """Number of threads that computed."""
    begun: Mark
    ended: Mark
    within: list[Step] = field(default_factory=list)
    """Steps inside this step. Their time does not count here."""

    @property
    def seconds(self) -> float:
        """Seconds of all threads, without those of the steps inside. The work must have ended."""
        inside = sum(_between(step.begun, step.ended) for step in self.within)
        return (_between(self.begun, self.ended) - inside) * self.threads


class StepTimes:
    """The times of the steps of one chunk. Threads may add steps at the same time."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._steps: list[Step] = []

    @contextmanager
    def step(self, kind: Kind, *, whole: bool, count: int = 1, within: Step | None = None) -> Iterator[Step]:
        """Measure what happens inside; the arguments are those of `Step`. `within` is the step around this one."""
        begun = self._watch.mark()
        step = Step(kind, whole, count, self._watch.threads, begun, begun)
        yield step
        step.ended = self._watch.mark()
        self._steps.append(step)
        if within is not None:
            within.within.append(step)

    def routed(self) -> float:
        """Return the seconds of all steps."""
        return sum(step.seconds for step in self._steps)

    def dense(self) -> Iterator[tuple[Kind, float]]:
        """Return the kind and the seconds of each step that ran as in the dense network."""
        for step in self._steps:
            if step.whole:
                yield step.kind, step.seconds / step.count


@dataclass(frozen=True)
class StepCounts:
    """Numbers of steps of the dense network."""

    flows: int = 0
    """Flows in one direction; each aligns the features of one frame."""
    backward: int = 0
    forward: int = 0
    """Also of frames to reconstruct."""

    @classmethod
    def of(cls, frames: int, emit: int, *, continues: bool) -> StepCounts:
        """Count the steps for `frames` frames of which `emit` are emitted; `continues`: a frame comes before."""
        return cls(max(frames - 1, 0) + max(emit - 1, 0) + (continues and emit > 0), frames, emit)

    def __add__(self, other: StepCounts) -> StepCounts:
        return StepCounts(self.flows + other.flows, self.backward + other.backward, self.forward + other.forward)


@dataclass
class _Size:
    """Seconds of dense steps on frames of one size."""

    kinds: dict[Kind, deque[float]] = field(default_factory=dict)

    def add(self, kind: Kind, seconds: float) -> None:
        self.kinds.setdefault(kind, deque(maxlen=KEPT)).append(seconds)

    def of(self, kind: Kind) -> float | None:
        """Return the typical seconds of a step. The first step also prepares kernels: later ones replace it."""
        known = list(self.kinds.get(kind, ()))
        return median(known[1:] or known) if known else None


class DenseTimes:
    """The dense network's time on this machine, by frame size and number format of the frames."""

    def __init__(self, network: BasicVSR) -> None:
        self._network = network
        self._sizes: dict[object, _Size] = {}

    def add(self, size: object, times: StepTimes) -> None:
        """Keep the dense steps of a chunk with frames of a size."""
        known = self._sizes.setdefault(size, _Size())
        for kind, seconds in times.dense():
            known.add(kind, seconds)

    def known(self, size: object) -> bool:
        """Check whether a dense trunk of a size was measured."""
        return bool({"backward", "forward"} & self._sizes.get(size, _Size()).kinds.keys())

    def seconds(self, size: object, counts: StepCounts) -> float:
        """Return the seconds of dense steps on frames of a `known` size.

        A kind without any measurement follows from the others by its multiply-accumulates. Alignment, which has none,
        then counts as free: the speedup is a lower bound.
        """
        kinds = self._sizes[size]
        measured = {kind: seconds for kind in self._work if (seconds := kinds.of(kind)) is not None}
        pace = sum(measured.values()) / sum(self._work[kind] for kind in measured)
        each = {kind: measured.get(kind, pace * work) for kind, work in self._work.items()}
        alignment = kinds.of("alignment") or 0.0
        return (
            counts.flows * (each["flow"] + alignment)
            + counts.backward * each["backward"]
            + counts.forward * (each["forward"] + each["output"])
        )

    @cached_property
    def _work(self) -> dict[Kind, float]:
        """Relative work of a step of each kind."""
        macs = step_macs(self._network)
        return {
            "flow": macs.flow * FLOW_PACE,
            "backward": macs.backward,
            "forward": macs.forward,
            "output": macs.output * OUTPUT_PACE,
        }


def _between(begun: Mark, ended: Mark) -> float:
    """Return the seconds between two marks."""
    if isinstance(begun, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
        return float(begun.elapsed_time(ended)) / 1000
    assert isinstance(begun, float)
    assert isinstance(ended, float)
    return ended - begun
