"""Frames that arrive as samples of 4:2:0, converted elsewhere, and not as RGB."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from av.video.frame import VideoFrame

from media.color.pixels import Pixels
from media.color.tags import BT470BG, BT709, BT2020_NCL, FCC, SMPTE170M, SMPTE240M, tag
from media.types import Color, OutputSpec

_LUMA_WEIGHTS: Final = {
    BT709: (0.2126, 0.0722),
    FCC: (0.30, 0.11),
    BT470BG: (0.299, 0.114),
    SMPTE170M: (0.299, 0.114),
    SMPTE240M: (0.212, 0.087),
    BT2020_NCL: (0.2627, 0.0593),
}
"""Matrix coefficients → weights of red and blue in luma (H.273's KR and KB)."""


class Layout(NamedTuple):
    """How a pixel format of 4:2:0 stores its samples."""

    bits: int
    interleaved: bool
    """Whether both colour differences share one plane."""
    shift: int
    """Bits below the lowest bit of a sample in its word."""


LAYOUTS: Final = {
    "yuv420p": Layout(8, False, 0),
    "yuv420p10le": Layout(10, False, 0),
    "nv12": Layout(8, True, 0),
    "p010le": Layout(10, True, 6),
}


class ChromaPlace(NamedTuple):
    """Where swscale puts the chroma samples of a location."""

    row: float
    """0 on the upper row of two rows of pixels, 1 on the lower row."""
    on_column: bool
    """Whether the samples lie on the left column of two columns, not between them."""


def luma_weights(color: Color) -> tuple[float, float]:
    """Return the weights of red and blue in luma."""
    return _LUMA_WEIGHTS[color.matrix]


def chroma_place(color: Color) -> ChromaPlace:
    """Return the place of the chroma samples. swscale takes `left` for the place between two columns."""
    location = color.chroma_location
    row = {"top": 0.0, "bottom": 1.0}.get(location.removesuffix("left"), 0.5)
    return ChromaPlace(row, location in ("topleft", "bottomleft"))


def frame_of_planes(samples: Pixels, spec: OutputSpec) -> VideoFrame:
    """Return a frame of the size and pixel format of `spec` from its planes, one after the other without padding.

    `samples` [3 H W / 2] are uint8 or uint16. Raises ValueError for another number of samples.
    """
    if samples.shape != (spec.width * spec.height * 3 // 2,):
        raise ValueError(f"not a frame of 4:2:0 with {spec.width}×{spec.height}: {samples.dtype} {samples.shape}")
    frame, at = VideoFrame(spec.width, spec.height, spec.pixel_format), 0
    interleaved = LAYOUTS[spec.pixel_format].interleaved
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(memoryview(plane), samples.dtype).reshape(plane.height, -1)
        across = plane.width * (2 if interleaved and index else 1)
        size = plane.height * across
        rows[:, :across] = samples[at : at + size].reshape(plane.height, across)
        at += size
    tag(frame, spec.color)
    return frame
