"""Animated WebP, which libav does not demux: the file as a stream of whole pictures, in libav's container NUT.

Each part of the animation is decoded by libav as a picture of its own, and put on the canvas as browsers do.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, cast

import av
from av.filter import Graph
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from media.color.tags import resolved
from media.color.yuv import to_rgb
from media.demux.formats import WEBP
from media.types import Color, ColorRange

_UNIT: Final = Fraction(1, 1000)
_ANIMATED, _ALPHA = 0x02, 0x10
"""Flags of the chunk VP8X."""
_REPLACES, _CLEARS = 0x02, 0x01
"""Flags of a part: its pixels replace the canvas, also transparent ones; its rectangle is cleared after its time."""
_SHORTEST, _BROWSERS = 10, 100
"""Milliseconds: browsers show parts of up to 10 ms for 100 ms."""
_PIXEL: Final = 4
"""Bytes of a pixel."""
_PADDING: Final = 64
"""Pixels by which a coded picture may exceed the shown one."""
_HEAD: Final = 16
"""Bytes before the picture's chunks in a part."""


@dataclass(frozen=True)
class _Part:
    """One ANMF chunk: a rectangle of the canvas for some time."""

    left: int
    top: int
    width: int
    height: int
    milliseconds: int
    flags: int
    offset: int
    """Where the chunks of the picture begin in the file."""
    size: int


@dataclass(frozen=True)
class Animation:
    """Header of an animated WebP."""

    width: int
    height: int
    plays: int
    """0: endlessly."""
    parts: tuple[_Part, ...]
    complete: bool
    """Whether the file is as long as its header states."""

    @property
    def times(self) -> tuple[int, ...]:
        """Start of each part, and the end of the last one, in milliseconds."""
        times = [0]
        for part in self.parts:
            times.append(times[-1] + part.milliseconds)
        return tuple(times)


def is_webp_animation(path: Path) -> bool:
    """Whether the file begins like an animated WebP."""
    with path.open("rb") as file:
        head = file.read(21)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20:] and head[20] & _ANIMATED)


def read_animation(path: Path) -> Animation:
    """Read the header of all parts. A broken chunk ends the animation."""
    plays, parts = 1, []
    with path.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(30)
        for name, offset, size in _chunks(file, 12, end):
            file.seek(offset)
            if name == b"ANIM":
                plays = int.from_bytes(file.read(6)[4:6], "little")
            elif name == b"ANMF" and size > _HEAD:
                parts.append(_part(file.read(_HEAD), offset, size))
    complete = end >= int.from_bytes(head[4:8], "little") + 8
    return Animation(_u24(head, 24) + 1, _u24(head, 27) + 1, plays, tuple(parts), complete)


def _part(head: bytes, offset: int, size: int) -> _Part:
    left, top, width, height, milliseconds = (_u24(head, at) for at in range(0, 15, 3))
    shown = milliseconds if milliseconds > _SHORTEST else _BROWSERS
    return _Part(2 * left, 2 * top, width + 1, height + 1, shown, head[15], offset + _HEAD, size - _HEAD)


def _u24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _chunks(file: io.BufferedReader, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and size of each whole chunk between two offsets."""
    while at + 8 <= end:
        file.seek(at)
        head = file.read(8)
        size = int.from_bytes(head[4:], "little")
        if at + 8 + size > end:
            return
        yield head[:4], at + 8, size
        at += 8 + size + size % 2


class PictureStream:
    """The animation as a file in the format NUT, made while it is read. The pictures are RGBA."""

    name = WEBP
    """Becomes the container's name, by which callers recognise the animation."""

    def __init__(self, path: Path, animation: Animation) -> None:
        self._file = path.open("rb")
        self._pictures = _pictures(self._file, animation)
        self._times = iter(animation.times)
        self._data = bytearray()
        self._container = av.open(_Sink(self._data), "w", format="nut")
        self._stream = self._container.add_stream("rawvideo", rate=1 / _UNIT)
        self._stream.width, self._stream.height, self._stream.pix_fmt = animation.width, animation.height, "rgba"
        self._stream.time_base = self._stream.codec_context.time_base = _UNIT

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        while len(self._data) < size and (picture := next(self._pictures, None)):
            picture.pts, picture.time_base = next(self._times), _UNIT
            self._container.mux(self._stream.encode(picture))
        if len(self._data) < size:
            self._container.close()
        data = bytes(self._data[:size])
        del self._data[:size]
        return data

    def close(self) -> None:
        """Close the animation."""
        self._file.close()


@dataclass(frozen=True)
class _Sink:
    """A file that is only written, from the beginning to the end."""

    data: bytearray

    def write(self, data: bytes) -> int:
        """Append bytes."""
        self.data.extend(data)
        return len(data)


def _pictures(file: io.BufferedReader, animation: Animation) -> Iterator[VideoFrame]:
    """Yield the canvas as it is shown with each part. Raises libav's errors."""
    canvas = _frame(animation.width, animation.height, bytes(_PIXEL * animation.width * animation.height))
    for part in animation.parts:
        if part.left + part.width > animation.width or part.top + part.height > animation.height:
            raise av.error.InvalidDataError(0, "a part of the animation exceeds the canvas")
        file.seek(part.offset)
        picture = _decoded(part, file.read(part.size))
        canvas = _replaced(canvas, part, picture) if part.flags & _REPLACES else _blended(canvas, part, picture)
        yield canvas
        if part.flags & _CLEARS:
            canvas = _replaced(canvas, part, _frame(part.width, part.height, bytes(_PIXEL * part.width * part.height)))


def _decoded(part: _Part, chunks: bytes) -> VideoFrame:
    """Decode a part, as a WebP file of a single picture, to RGBA of the part's size."""
    head = bytes([_ALPHA, 0, 0, 0]) + (part.width - 1).to_bytes(3, "little") + (part.height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + len(head).to_bytes(4, "little") + head + chunks
    context = av.CodecContext.create("webp", "r")
    context.thread_count = 1
    context.options = {"max_pixels": str((part.width + _PADDING) * (part.height + _PADDING))}
    frames = context.decode(Packet(b"RIFF" + len(body).to_bytes(4, "little") + body))
    frames = frames or context.decode(None)
    if not frames:
        raise av.error.InvalidDataError(0, "a part of the animation has no picture")
    tags = Color(matrix=int(frames[0].colorspace), range=ColorRange(frames[0].color_range % 3))
    color = resolved(tags, pixel_format=frames[0].format.name, height=0)
    size = part.width, part.height
    return to_rgb(frames[0], color, VideoReformatter(), size=size, pixel_format="rgba")


def _replaced(canvas: VideoFrame, part: _Part, picture: VideoFrame) -> VideoFrame:
    """The canvas with the part's pixels instead of its own."""
    copy = VideoFrame(canvas.width, canvas.height, "rgba")
    left, right = _PIXEL * part.left, _PIXEL * (part.left + part.width)
    below = _rows(canvas)
    for y, row in enumerate(_rows(picture), part.top):
        below[y] = below[y][:left] + row + below[y][right:]
    padding = bytes(copy.planes[0].line_size - _PIXEL * canvas.width)
    copy.planes[0].update(b"".join(row + padding for row in below))
    return copy


def _rows(frame: VideoFrame) -> list[bytes]:
    """The lines of an RGBA frame, without padding."""
    data, line = bytes(frame.planes[0]), frame.planes[0].line_size
    return [data[y * line : y * line + _PIXEL * frame.width] for y in range(frame.height)]


def _blended(canvas: VideoFrame, part: _Part, picture: VideoFrame) -> VideoFrame:
    """The part over the canvas."""
    graph = Graph()
    graph.threads = 1
    below, above = (
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_UNIT)
        for frame in (canvas, picture)
    )
    over = graph.add("overlay", f"x={part.left}:y={part.top}:format=rgb:eof_action=pass")
    to_rgba, sink = graph.add("format", "rgba"), graph.add("buffersink")
    below.link_to(over, 0, 0)
    above.link_to(over, 0, 1)
    graph.link_nodes(over, to_rgba, sink)
    graph.configure()
    for source, frame in ((below, canvas), (above, picture)):
        frame.pts, frame.time_base = 0, _UNIT
        source.push(frame)
        source.push(None)
    return cast(VideoFrame, sink.pull())


def _frame(width: int, height: int, pixels: bytes) -> VideoFrame:
    return VideoFrame.from_bytes(pixels, width, height, "rgba")
