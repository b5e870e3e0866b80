"""Display matrices (ISO/IEC 14496-12): rotation, mirroring and offset of the shown picture.

A matrix (a, b, u, c, d, v, x, y, w) maps a pixel (p, q) of the stored picture to (a p + c q + x, b p + d q + y). Its
numbers have 16 fractional bits, u, v and w have 30.
"""

from __future__ import annotations

from fractions import Fraction
from math import atan2, degrees, hypot
from typing import Final, NamedTuple

_ONE: Final = 1 << 16
_SKEW: Final = 0.01
"""Deviation from a right angle between the shown axes, as a cosine. Above, a picture is skewed."""

Matrix = tuple[int, ...]


class Orientation(NamedTuple):
    """A display matrix in the parts that Matroska can hold."""

    matrix: Matrix
    """Rotation alone."""
    flip: str
    """How the stored pixels are mirrored before the rotation: horizontal, vertical, or "" for not at all."""
    stretch: Fraction
    """Factor of the pixels' aspect ratio."""


def scaled(matrix: Matrix, before: tuple[int, Fraction], after: tuple[int, Fraction], factor: Fraction) -> Matrix:
    """The matrix for an enlarged picture: the same turn, with an offset `factor` times as large.

    Args:
        before: (height, shown width) of the picture that the matrix belongs to.
        after: the same of the enlarged picture. Rounding makes its size differ from `factor` times the size before.
    """
    a, b, _, c, d, _, x, y, _ = matrix
    offsets = (
        factor * (offset + _smallest(p, q, before)) - _smallest(p, q, after) for p, q, offset in ((a, c, x), (b, d, y))
    )
    x, y = (min(max(round(offset), -(2**31)), 2**31 - 1) for offset in offsets)
    return (*matrix[:6], x, y, matrix[8])


def _smallest(p: int, q: int, size: tuple[int, Fraction]) -> Fraction:
    """The smallest coordinate of a turned picture without an offset, along one axis."""
    height, width = size
    return min(Fraction(0), p * width) + min(Fraction(0), Fraction(q * height))


def pixel_shape(claimed: Fraction, matrix: Matrix | None) -> Fraction:
    """The pixels' aspect ratio, without libav's part from a stretching matrix. The matrix itself is kept."""
    if matrix is not None:
        across, down = hypot(matrix[0], matrix[3]), hypot(matrix[1], matrix[4])
        if across and down and abs(across / down - 1) > _SKEW and abs(claimed * down - across) <= _SKEW * across:
            return Fraction(1)
    return claimed


def decomposed(matrix: Matrix) -> Orientation | None:
    """Split a matrix into mirroring, stretching and rotation. None: the matrix skews the picture, or hides it."""
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    across, down = hypot(a, b), hypot(c, d)
    if not across or not down or abs(a * c + b * d) > _SKEW * across * down:
        return None
    stretch = Fraction(across / down).limit_denominator(1000)
    turns = [("", a, b)] if a * d - b * c > 0 else [("horizontal", -a, -b), ("vertical", a, b)]
    flip, a, b = min(turns, key=lambda turn: degrees(atan2(turn[2], turn[1])) % 360)
    cosine, sine = round(a / across * _ONE), round(b / across * _ONE)
    return Orientation((cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30), flip, stretch)
