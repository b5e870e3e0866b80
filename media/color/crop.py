"""Cropping of frames to the part that players show."""

from __future__ import annotations

from typing import Final, NamedTuple

from av.filter import Graph
from av.video.frame import VideoFrame

from media.color.filters import filter_chain

_GRID: Final = 4
"""Pixels of one chroma sample at most."""


class Crop(NamedTuple):
    """The part of the decoded picture that players show."""

    left: int
    top: int
    width: int
    height: int
    of: tuple[int, int]
    """Size of the decoded picture to which these numbers apply."""


class Cropper:
    """Cuts frames in two steps: at whole chroma samples before the conversion to RGB, and exactly afterwards.

    Chroma from outside would otherwise bleed into the picture during the conversion.
    """

    def __init__(self, crop: Crop) -> None:
        self._of = crop.of
        left, top = crop.left // _GRID * _GRID, crop.top // _GRID * _GRID
        right, bottom = (_up(crop.left + crop.width, crop.of[0]), _up(crop.top + crop.height, crop.of[1]))
        self._coarse = _Cut(left, top, right - left, bottom - top)
        self._fine = _Cut(crop.left - left, crop.top - top, crop.width, crop.height)
        self._whole = _Cut(crop.left, crop.top, crop.width, crop.height)

    def applies(self, frame: VideoFrame) -> bool:
        """Whether the frame has the size to which the crop belongs. Frames of another size stay whole."""
        return (frame.width, frame.height) == self._of

    def shown(self, frame: VideoFrame) -> tuple[int, int]:
        """Size of the shown part of a frame."""
        return self._whole.size if self.applies(frame) else (frame.width, frame.height)

    def coarse(self, frame: VideoFrame) -> VideoFrame:
        """The part of a decoded frame that holds all shown pixels. Frames of another size stay whole."""
        return self._coarse(frame) if self.applies(frame) else frame

    def fine(self, rgb: VideoFrame) -> VideoFrame:
        """The shown part of a converted frame, whole or after the first step."""
        return (self._whole if self.applies(rgb) else self._fine)(rgb)


def _up(end: int, most: int) -> int:
    return min(-(-end // _GRID) * _GRID, most)


class _Cut:
    """Cuts the same rectangle from all frames of a size and format."""

    def __init__(self, left: int, top: int, width: int, height: int) -> None:
        self._left, self._top, self._width, self._height = left, top, width, height
        self.size = width, height
        self._graph: Graph | None = None
        self._format = ""

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        if (frame.width, frame.height) == (self._width, self._height):
            return frame
        if self._graph is None or frame.format.name != self._format:
            place = f"{self._width}:{self._height}:{self._left}:{self._top}"
            self._graph, self._format = filter_chain(frame, f"crop={place}"), frame.format.name
        self._graph.vpush(frame)
        return self._graph.vpull()
