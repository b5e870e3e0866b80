"""The frame rate for the encoder, where headers may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Final

DEFAULT_RATE: Final = Fraction(25)
_USUAL: Final = 10, 120
"""Rates for which headers are trusted."""
_POSSIBLE: Final = 1, 240
"""Rates of videos. Others come from headers and timestamps that a tool has squeezed or stretched."""


def is_usual(rate: Fraction | None) -> bool:
    """Whether a header's rate needs no second look."""
    return rate is not None and _USUAL[0] <= rate <= _USUAL[1]


def nominal_rate(header: Fraction | None, times: Sequence[int], time_base: Fraction) -> Fraction:
    """Rate from the median distance of frames: the display rate of the moving frames.

    Args:
        header: the rate in the header; preferred if the frames agree with it.
        times: pts of the first frames, in any order.
        time_base: seconds of one unit of `times`.
    """
    ordered = sorted(times)
    steps = sorted(b - a for a, b in pairwise(ordered) if b > a)
    if not steps:
        return header if header is not None and _is_possible(header) else DEFAULT_RATE
    step = steps[len(steps) // 2]
    measured = 1 / (step * time_base)
    if header is not None and abs(1 / (header * time_base) - step) < 1:  # timestamps are rounded to whole units
        measured = header
    return measured.limit_denominator(1001) if _is_possible(measured) else DEFAULT_RATE


def _is_possible(rate: Fraction) -> bool:
    return _POSSIBLE[0] <= rate <= _POSSIBLE[1]
