"""Properties of libav's pixel formats."""

from __future__ import annotations

import sys
from typing import Final

from av.video.format import VideoFormat
from av.video.frame import VideoFrame

_WITH_ALPHA: Final = ("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "ayuv")
"""Prefixes of the names of formats with an alpha channel."""


def is_rgb(pixel_format: str) -> bool:
    """Whether the samples are RGB, directly or through a palette. No matrix applies to them."""
    return VideoFormat(pixel_format, 16, 16).is_rgb or pixel_format == "pal8"


def is_transparent(frame: VideoFrame) -> bool:
    """Whether the format has an alpha channel, or a used colour of the palette is not opaque."""
    if frame.format.name != "pal8":
        return frame.format.name.startswith(_WITH_ALPHA)
    pixels, palette = frame.planes[0], bytes(frame.planes[1])
    rows, width = bytes(pixels), pixels.line_size
    used = {index for y in range(frame.height) for index in set(rows[y * width : y * width + frame.width])}
    return any(int.from_bytes(palette[4 * index : 4 * index + 4], sys.byteorder) >> 24 < 255 for index in used)


def bit_depth(pixel_format: str) -> int:
    """Bits of one colour sample."""
    if pixel_format == "pal8":
        return 8
    return max((c.bits for c in VideoFormat(pixel_format, 16, 16).components), default=8)


def rgb_format(depth: int) -> str:
    """Pixel format of decoded frames: rgb24, or rgb48le for a source of more than 8 bits a sample."""
    return "rgb24" if depth <= 8 else "rgb48le"
