"""Colour tags: matrix and range by ITU-T H.273, and the defaults for sources without tags."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from av.video.frame import VideoFrame

from media.color.pixel_formats import is_rgb
from media.errors import UnusableVideo
from media.types import UNSPECIFIED, Color, ColorRange

RGB, BT709, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020_NCL = 0, 1, 4, 5, 6, 7, 9
"""Matrix coefficients (H.273, table 4)."""
_SWSCALE: Final = {BT709: 1, FCC: 4, BT470BG: 5, SMPTE170M: 5, SMPTE240M: 7, BT2020_NCL: 9}
"""Matrix coefficients → PyAV's number for swscale (SWS_CS_*)."""
_SD_HEIGHT: Final = 576
"""Largest height of standard definition."""


def resolved(color: Color, *, pixel_format: str, height: int) -> Color:
    """Replace unspecified matrix and range by a player's defaults for a source of this height.

    Players assume BT.601 for standard definition, and BT.709 above. The result is larger than the source. For an
    untagged result, a player would assume another matrix. The result is therefore tagged with the resolved values.

    Raises:
        UnusableVideo: swscale can't convert the matrix (YCgCo, ICtCp, constant luminance).
    """
    matrix, color_range = color.matrix, color.range
    if is_rgb(pixel_format):
        matrix, color_range = BT709, ColorRange.LIMITED
    elif matrix in (UNSPECIFIED, RGB):
        matrix = BT709 if height > _SD_HEIGHT else SMPTE170M
    if color_range == ColorRange.UNSPECIFIED:
        color_range = ColorRange.FULL if pixel_format.startswith("yuvj") else ColorRange.LIMITED
    if matrix not in _SWSCALE:
        raise UnusableVideo(
            f"The video's colour matrix (H.273 code {matrix}) can't be converted. Re-encode the video as BT.709 first."
        )
    return replace(color, matrix=matrix, range=color_range)


def swscale_matrix(matrix: int) -> int:
    """PyAV's number for a matrix of H.273."""
    return _SWSCALE[matrix]


def tag(frame: VideoFrame, color: Color) -> None:
    """Write the colour tags to a frame. Encoders read the tags there."""
    frame.colorspace = color.matrix
    frame.color_range = int(color.range)
    frame.color_primaries = color.primaries
    frame.color_trc = color.transfer
