"""Timestamps in containers: rounding, decoding timestamps of reordered frames (B-frames), time scales."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from typing import Final

SHIFT_TAG: Final = "comment"
"""Metadata tag of a segment file: an amount to add to its timestamps, which begin at zero."""
_ROUNDED: Final = "{} stores times in milliseconds; the frames' timestamps are rounded by up to half a millisecond."


def rounding_warning(container: str) -> str:
    """The warning for a container that can't hold the timestamps exactly."""
    return _ROUNDED.format(container)


def is_rounded(container: str, time_base: Fraction) -> bool:
    """Whether the container can't hold every multiple of `time_base` (seconds). libav's Matroska uses milliseconds."""
    return container in ("mkv", "webm") and (1000 * time_base).denominator != 1


def is_whole_milliseconds(pts: int, time_base: Fraction) -> bool:
    """Whether a timestamp is a whole number of milliseconds."""
    return (1000 * pts * time_base).denominator == 1


def reorder_depth(times: Sequence[int]) -> int:
    """Largest number of places by which a frame moves from display order to coding order.

    Args:
        times: pts in coding order.
    """
    ranks = {pts: rank for rank, pts in enumerate(sorted(times))}
    return max((place - ranks[pts] for place, pts in enumerate(times)), default=0)


def decoding_times(times: Sequence[int], depth: int, before: Sequence[int] = (), step: int = 1) -> list[int]:
    """A dts for each pts: strictly increasing, and at most the pts.

    The n-th dts is the n-th smallest pts, delayed by `depth` places. At least n - depth frames are shown before the
    frame coded at place n: its dts is at most its pts. The first dts values are extrapolated.

    Args:
        times: pts of one closed segment, in coding order.
        depth: at least the `reorder_depth` of every segment of the stream.
        before: the last `depth` pts of the previous segment, in display order; empty for the first segment.
        step: typical distance of two frames, for the extrapolation.
    """
    ordered = sorted(times)
    lead = list(before) or [ordered[0] - step * k for k in range(depth, 0, -1)]
    return (lead[len(lead) - depth :] + ordered)[: len(ordered)] if depth else ordered


def movie_timescale(*units: int) -> int:
    """A common time scale for MP4's edit lists, so that every track starts exactly. libav's default is 1000."""
    scale = lcm(1000, *units)
    return scale if scale < 2**31 else max(units)
