"""Coding of a live stream's frames: format, size and colour."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from media.color.tags import SMPTE170M, resolved
from media.types import UNSPECIFIED, Color, ColorRange


class Format(StrEnum):
    """Format of a frame's bytes."""

    RGB24 = "rgb24"
    YUV420P = "yuv420p"
    NV12 = "nv12"
    JPEG = "jpeg"
    PNG = "png"
    H264 = "h264"
    HEVC = "hevc"

    @property
    def is_video(self) -> bool:
        """Whether the coder has a state, because frames depend on previous frames."""
        return self in (Format.H264, Format.HEVC)

    @property
    def has_matrix(self) -> bool:
        """Whether a colour matrix and a range apply."""
        return self in (Format.YUV420P, Format.NV12, Format.H264, Format.HEVC)


@dataclass(frozen=True)
class Coding:
    """Coding of a stream's frames. All frames have the same size."""

    format: Format
    width: int
    height: int
    matrix: int = UNSPECIFIED
    """H.273 code."""
    range: ColorRange = ColorRange.UNSPECIFIED
    quality: int = 90
    """Quality of JPEG, 1 to 100."""
    crf: int = 20
    """Constant rate factor of H.264 and HEVC."""
    frame_rate: Fraction = Fraction(25)

    @property
    def color(self) -> Color:
        """Matrix and range, with a player's defaults for UNSPECIFIED. Raises UnusableVideo."""
        matrix = self.matrix if self.format.has_matrix else SMPTE170M
        return resolved(tags(matrix, self.range), pixel_format="yuv420p", height=self.height)


def tags(matrix: int, color_range: ColorRange) -> Color:
    """Matrix and range, without primaries and transfer."""
    return Color(primaries=UNSPECIFIED, transfer=UNSPECIFIED, matrix=matrix, range=color_range)
