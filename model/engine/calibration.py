"""What a frame takes densely, measured beside the routed work: the time that a speed-up is told from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from torch import Tensor

from model.engine.state import RecurrentState

FRAMES: Final = 4
"""Most frames of a round."""
ROUNDS: Final = 3
BUDGET: Final = 0.02
"""The second round and those after it wait until all of them are no more than this share of the time computed."""


Run = Callable[[Tensor, int, RecurrentState | None], float]
"""Runs the network densely over frames [T, H, W, 3], of which the first so many are emitted, from a state or from
none; returns the seconds that it took."""


@dataclass
class _Size:
    """What is known of one size and type of frame; seconds."""

    computed: float = 0.0
    """Of chunks, by their routing."""
    measured: float = 0.0
    rounds: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    """A frame's seconds in each round, by (frames emitted, frames in all)."""


class DenseTimes:
    """Measures what the dense network takes, once for each size of frame, and keeps it."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[object, ...], _Size] = {}

    def a_frame(self, run: Run, stored: Tensor, emit: int, before: RecurrentState, *, took: float, last: bool) -> float:
        """Seconds of a frame of this chunk, which took `took` seconds by its routing.

        Of a long chunk on a few frames, whose look-ahead's share does not count: that makes the speed-up that is told
        from it the smaller. A short one is run again as it is, for there the look-ahead is most of the work. What is
        left of a stream at its end is held to the chunks before it.
        """
        size = self._sizes.setdefault((*stored.shape[1:3], stored.dtype), _Size())
        size.computed += took
        chunk, start = (emit, len(stored)), before if emit <= FRAMES else None
        if start is None:
            stored, emit = stored[:FRAMES], FRAMES
            chunk = (FRAMES, FRAMES)
        rounds = next(reversed(size.rounds.values())) if last and size.rounds else size.rounds.setdefault(chunk, [])
        if not rounds:
            # Kernels are prepared for a size when they first meet it, and two frames meet them all.
            run(*((stored[:2], 2) if start is None else (stored, emit)), start)
        if not rounds or (not last and len(rounds) < ROUNDS and size.measured < BUDGET * size.computed):
            seconds = run(stored, emit, start)
            size.measured += seconds
            rounds.append(seconds / emit)
        return median(rounds)
