"""Decoding of a live stream's compressed frames to RGB: JPEG and PNG pictures, H.264 and HEVC access units."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final, Protocol, TypeAlias, cast

import av
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from media.coding import Coding, Format, tags
from media.color.tags import SMPTE170M, resolved
from media.color.yuv import to_rgb
from media.errors import UnusableVideo
from media.types import UNSPECIFIED, Color, ColorRange

Numbered: TypeAlias = tuple[VideoFrame, int]
"""An rgb24 frame, and the number of its packet."""


class LiveDecoder(Protocol):
    """Packets → frames. Raises UnusableVideo for packets of another format or size."""

    def decode(self, data: bytes, number: int) -> Iterator[Numbered]:
        """The frames that this packet completes."""

    def flush(self) -> Iterator[Numbered]:
        """The delayed frames. Afterwards a new sequence can begin."""


def live_decoder(coding: Coding) -> LiveDecoder:
    """Create the decoder of one stream."""
    return _VideoDecoder(coding) if coding.format.is_video else _PictureDecoder(coding)


class _PictureDecoder:
    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._codec = "mjpeg" if coding.format is Format.JPEG else "png"
        self._reformatter = VideoReformatter()

    def decode(self, data: bytes, number: int) -> Iterator[Numbered]:
        # Each picture gets a new context, so a corrupt picture can't affect the next one.
        frames = _decode(_open_decoder(self._codec, self._coding), data, self._coding)
        if len(frames) != 1:
            raise UnusableVideo(f"The bytes are not one {self._coding.format.name} picture.")
        frame = frames[0]
        _check_size(frame, self._coding)
        yield _to_rgb(frame, _color_of(frame, self._coding), self._reformatter), number

    def flush(self) -> Iterator[Numbered]:
        return iter(())


class _VideoDecoder:
    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._context = _open_decoder(coding.format.value, coding)
        self._reformatter = VideoReformatter()

    def decode(self, data: bytes, number: int) -> Iterator[Numbered]:
        return self._decoded(_decode(self._context, data, self._coding, number))

    def flush(self) -> Iterator[Numbered]:
        try:
            frames = self._context.decode(None)
        except (av.error.FFmpegError, EOFError) as error:
            raise UnusableVideo(f"The end of the {self._coding.format.name} stream is corrupt: {error}") from error
        self._context = _open_decoder(self._coding.format.value, self._coding)
        return self._decoded(frames)

    def _decoded(self, frames: list[VideoFrame]) -> Iterator[Numbered]:
        for frame in frames:
            _check_size(frame, self._coding)
            yield _to_rgb(frame, _color_of(frame, self._coding), self._reformatter), frame.pts or 0


_MARGIN: Final = 64
"""Largest difference in pixels between coded and shown size. Codecs pad frames to whole blocks."""


def _open_decoder(name: str, coding: Coding) -> VideoCodecContext:
    context = cast("VideoCodecContext", av.CodecContext.create(name, "r"))
    context.thread_count = 1  # frame threads would delay frames
    context.flags |= Flags.low_delay
    context.options = {"max_pixels": str((coding.width + _MARGIN) * (coding.height + _MARGIN))}
    return context


def _decode(context: VideoCodecContext, data: bytes, coding: Coding, number: int = 0) -> list[VideoFrame]:
    packet = av.Packet(data)
    packet.pts = packet.dts = number
    packet.time_base = Fraction(1, 1000)
    try:
        return context.decode(packet)
    except (av.error.FFmpegError, ValueError) as error:
        what = "access unit" if coding.format.is_video else "picture"
        raise UnusableVideo(
            f"The {len(data):,} bytes are no {coding.format.name} {what} of {coding.width}x{coding.height}."
        ) from error


def _check_size(frame: VideoFrame, coding: Coding) -> None:
    if (frame.width, frame.height) != (coding.width, coding.height):
        raise UnusableVideo(
            f"The frame is {frame.width}x{frame.height}, the stream {coding.width}x{coding.height}. "
            "Start a new stream for another size."
        )


def _color_of(frame: VideoFrame, coding: Coding) -> Color:
    """Colour of a decoded frame: the client's values, else the frame's tags, else a player's defaults."""
    own = tags(int(frame.colorspace), ColorRange(int(frame.color_range)))
    if coding.format is Format.JPEG:
        own = tags(SMPTE170M, ColorRange.FULL)
    matrix = coding.matrix if coding.format.has_matrix and coding.matrix != UNSPECIFIED else own.matrix
    color_range = coding.range if coding.format.has_matrix and coding.range else own.range
    return resolved(tags(matrix, color_range), pixel_format=frame.format.name, height=frame.height)


def _to_rgb(frame: VideoFrame, color: Color, reformatter: VideoReformatter) -> VideoFrame:
    return frame if frame.format.name == "rgb24" else to_rgb(frame, color, reformatter)
