"""Transparency: whether a frame has transparent pixels, and pictures on a white ground."""

from __future__ import annotations

from typing import Final

from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from media.color.filters import filter_chain

FLATTENED: Final = "Transparent parts of the picture are shown on white."
"""The warning about a video that `WhiteGround` has changed."""
_OPAQUE: Final = b"\xff"


def has_alpha(pixel_format: str) -> bool:
    """Whether the format can store transparency. A palette can."""
    return pixel_format == "pal8" or any(part.is_alpha for part in VideoFormat(pixel_format, 16, 16).components)


def planar_format(pixel_format: str) -> str:
    """The format with a plane of alpha that has as many bits as rgb24 or rgb48le."""
    return "gbrap" if pixel_format == "rgb24" else "gbrap16le"


def is_transparent(frame: VideoFrame) -> bool:
    """Whether any pixel is not opaque."""
    if not has_alpha(frame.format.name):
        return False
    if frame.format.name not in ("gbrap", "gbrap16le"):
        frame = VideoReformatter().reformat(frame, format="gbrap")
    plane = frame.planes[3]
    # Of 16 bits, the upper eight decide: swscale widens an opaque sample of 10 bits to 0xFFC0.
    first, step = (0, 1) if frame.format.name == "gbrap" else (1, 2)
    data, row, line = bytes(plane), _OPAQUE * plane.width, plane.line_size
    return any(data[y * line + first : y * line + step * plane.width : step] != row for y in range(plane.height))


class WhiteGround:
    """Puts frames of a `planar_format` on white. The results are gbrap16le, and their colours count without alpha."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._graph: Graph | None = None
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Put one frame on white."""
        frame = self._reformatter.reformat(
            frame, format="gbrap16le"
        )  # with 8 bits, the filter rounds opaque pixels, too
        if self._graph is None or (frame.width, frame.height) != self._size:
            self._graph, self._size = _on_white(frame), (frame.width, frame.height)
        self._graph.vpush(frame)
        return self._graph.vpull()


def _on_white(frame: VideoFrame) -> Graph:
    """white · (1 - alpha) + color · alpha = 1 - (1 - color) · alpha: negative, times alpha, negative."""
    return filter_chain(frame, "negate", "premultiply=inplace=1", "negate")
