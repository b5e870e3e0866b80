"""Properties of libav's pixel formats."""

from __future__ import annotations

from av.video.format import VideoFormat


def is_rgb(pixel_format: str) -> bool:
    """Whether the samples are RGB, directly or through a palette. No matrix applies to them."""
    return VideoFormat(pixel_format, 16, 16).is_rgb or pixel_format == "pal8"


def bit_depth(pixel_format: str) -> int:
    """Bits of one colour sample."""
    if pixel_format == "pal8":
        return 8
    return max((c.bits for c in VideoFormat(pixel_format, 16, 16).components), default=8)


def rgb_format(depth: int) -> str:
    """Pixel format of decoded frames: rgb24, or rgb48le for a source of more than 8 bits a sample."""
    return "rgb24" if depth <= 8 else "rgb48le"
