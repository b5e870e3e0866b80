"""A clip in memory through the network, chunk by chunk, like a job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Frames, Upscaler, groups
from model.routing import RoutingReport


def results(
    model: Upscaler, frames: Frames | Sequence[Frames], *, chunk: int, lookahead: int, routing: str = "off"
) -> Iterator[ChunkResult]:
    """The result of each chunk of `frames`, LR uint8 [T, h, w, 3], with the state carried on."""
    state: RecurrentState | None = None
    for group, last in groups(frames, chunk, lookahead):
        result = model.forward(np.stack(group), state, lookahead=lookahead, last=last, routing=routing)
        state = result.state
        yield result


def skip_ratio(reports: Sequence[RoutingReport]) -> float:
    """Fraction of the (tile, block) units that were not computed, over several frames."""
    total = sum(report.units_total for report in reports)
    return sum(report.units_left_out for report in reports) / total if total else 0.0
