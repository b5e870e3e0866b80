"""Measure the dense network's time per frame beside the routed work; speedup is dense time over routed time."""

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
"""Most rounds for one frame size."""
BUDGET: Final = 0.02
"""Largest share of the computed time for all rounds together, from the second round on."""


DenseRun = Callable[[Tensor, int, RecurrentState | None], float]
"""(frames [T, H, W, 3], number of emitted frames, state before them or None) -> seconds of the dense network."""


@dataclass
class _Size:
    """Measurements for one frame size and number format, in seconds."""

    computed: float = 0.0
    """Time of all routed chunks."""
    measured: float = 0.0
    """Time of all rounds."""
    rounds: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    """Seconds per frame of each round, by (emitted frames, all frames)."""


class DenseTimes:
    """Measures the dense network once for each frame size and keeps the result."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[object, ...], _Size] = {}

    def a_frame(
        self, run: DenseRun, stored: Tensor, emit: int, before: RecurrentState, *, took: float, last: bool
    ) -> float:
        """Return the dense seconds per emitted frame of a chunk `stored` [T, H, W, 3] that took `took` seconds routed.

        A long chunk is represented by a few frames without look-ahead; the reported speedup is then a lower bound. A
        short chunk runs again as a whole, since its look-ahead is most of the work. The last chunk of a stream reuses
        the time of the chunks before.
        """
        size = self._sizes.setdefault((*stored.shape[1:3], stored.dtype), _Size())
        size.computed += took
        chunk, start = (emit, len(stored)), before if emit <= FRAMES else None
        if start is None:
            stored, emit = stored[:FRAMES], FRAMES
            chunk = (FRAMES, FRAMES)
        rounds = next(reversed(size.rounds.values())) if last and size.rounds else size.rounds.setdefault(chunk, [])
        if not rounds:  # warm up: torch prepares the kernels of a size at the first call, and two frames call all
            run(*((stored[:2], 2) if start is None else (stored, emit)), start)
        if _due(size, rounds, last):
            seconds = run(stored, emit, start)
            size.measured += seconds
            rounds.append(seconds / emit)
        return median(rounds)


def _due(size: _Size, rounds: list[float], last: bool) -> bool:
    """Check whether another round is worth its time."""
    return not rounds or (not last and len(rounds) < ROUNDS and size.measured < BUDGET * size.computed)
