"""Which times a container can hold, and decoding times for packets of reordered (B) frames."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import Final

ROUNDED: Final = "{} counts in milliseconds: the frames' times are rounded to them, by half a millisecond at most"
"""What is said where a container can't hold the times as they are."""


def is_rounded(container: str, time_base: Fraction) -> bool:
    """Whether there are multiples of `time_base` (seconds) that a container can't hold. libav's Matroska is in ms."""
    return container in ("mkv", "webm") and (1000 * time_base).denominator != 1


def reorder_depth(times: Sequence[int]) -> int:
    """How many places a frame at most moves forward from display order to coding order, for pts in coding order."""
    ranks = {pts: rank for rank, pts in enumerate(sorted(times))}
    return max((place - ranks[pts] for place, pts in enumerate(times)), default=0)


def decoding_times(times: Sequence[int], depth: int, before: Sequence[int] = (), step: int = 1) -> list[int]:
    """A dts for each pts in coding order: strictly rising, and never above its pts.

    The n-th dts is the n-th smallest pts delayed by `depth` places; the first ones are made up, `step` apart.
    The frame coded at place n has at least n - depth frames shown before it, so its pts is never below that.

    Args:
        times: pts of one closed segment, in coding order.
        depth: at least `reorder_depth` of this and all other segments of the stream.
        before: the last `depth` pts of the segment before, in display order; empty for the first.
        step: a typical distance of two frames.
    """
    ordered = sorted(times)
    lead = list(before) or [ordered[0] - step * k for k in range(depth, 0, -1)]
    return (lead[len(lead) - depth :] + ordered)[: len(ordered)] if depth else ordered


def movie_timescale(*units: int) -> int:
    """A common unit for mp4's edit list, in which the start of every track is exact (its default is milliseconds)."""
    scale = lcm(1000, *units)
    return scale if scale < 2**31 else max(units)
