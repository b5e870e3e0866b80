"""Fitting of RGB pictures of other sizes and shapes into frames of one size."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from media.color.filters import filter_chain
from media.color.yuv import QUALITY
from media.types import Canvas

_CLOSE: Final = 0.02
"""Relative difference of shapes that is scaled away rather than filled with bars."""


class Fitter:
    """Scales pictures to a canvas. Circles stay circles: black bars fill the rest."""

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self._reformatter = VideoReformatter()
        self._graph: Graph | None = None
        self._source: tuple[int, int, str] | None = None

    def __call__(self, rgb: VideoFrame, shape: Fraction) -> VideoFrame:
        """Fit a picture whose pixels have the aspect ratio `shape`."""
        canvas = self._canvas
        width, height = fitting_size(rgb.width, rgb.height, shape, canvas)
        if (rgb.width, rgb.height) != (width, height):
            rgb = self._reformatter.reformat(rgb, width, height, interpolation=QUALITY, threads=1)
        if (width, height) == (canvas.width, canvas.height):
            return rgb
        source = width, height, rgb.format.name
        if self._graph is None or source != self._source:
            self._graph, self._source = self._padding(rgb), source
        self._graph.vpush(rgb)
        return self._graph.vpull()

    def _padding(self, rgb: VideoFrame) -> Graph:
        canvas = self._canvas
        left, top = (canvas.width - rgb.width) // 2, (canvas.height - rgb.height) // 2
        return filter_chain(rgb, f"pad={canvas.width}:{canvas.height}:{left}:{top}:black")


def fitting_size(width: int, height: int, shape: Fraction, canvas: Canvas) -> tuple[int, int]:
    """The largest size of a picture within the canvas that keeps the picture's shape.

    Args:
        width, height: the picture's size.
        shape: aspect ratio of its pixels.
    """
    wider = Fraction(width, height) * shape / (Fraction(canvas.width, canvas.height) * canvas.sample_aspect_ratio)
    if abs(wider - 1) <= _CLOSE:
        return canvas.width, canvas.height
    if wider > 1:
        return canvas.width, max(1, round(canvas.height / wider))
    return max(1, round(canvas.width * wider)), canvas.height
