"""Coding of a live stream's frames: bytes of the network ↔ RGB arrays, without files or containers.

Formats: raw RGB and YUV, JPEG and PNG pictures, H.264 and HEVC access units (Annex B). The bytes are untrusted: their
size is checked against the stream's before memory is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final, Protocol, cast

import av
import numpy as np
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from media.color.pixels import pixels
from media.color.tags import SMPTE170M, resolved, swscale_matrix, tag
from media.color.yuv import QUALITY, to_rgb
from media.errors import UnusableVideo
from media.types import UNSPECIFIED, Color, ColorRange

Rgb = NDArray[np.uint8]


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
        """Whether frames depend on previous frames, so that the coder has a state."""
        return self in (Format.H264, Format.HEVC)

    @property
    def has_matrix(self) -> bool:
        """Whether a colour matrix and a range apply."""
        return self in (Format.YUV420P, Format.NV12, Format.H264, Format.HEVC)


@dataclass(frozen=True)
class Coding:
    """Coding of a stream's frames, which all have one size."""

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
        return resolved(_tags(matrix, self.range), pixel_format="yuv420p", height=self.height)


@dataclass(frozen=True)
class Decoded:
    """A decoded frame."""

    rgb: Rgb
    """[H, W, 3]"""
    number: int
    """The number given to `decode` with the frame's bytes."""


@dataclass(frozen=True)
class Encoded:
    """An encoded frame."""

    data: bytes
    key: bool
    """Whether a decoder can start with this frame."""


class FrameDecoder(Protocol):
    """Bytes → frames. Raises UnusableVideo for bytes of another format or size."""

    def decode(self, data: bytes | memoryview, number: int) -> list[Decoded]:
        """The frames that these bytes complete: exactly one, except for H.264 and HEVC."""

    def flush(self) -> list[Decoded]:
        """The delayed frames. Afterwards a new sequence can begin."""


class FrameEncoder(Protocol):
    """Frames → bytes. Raises UnusableVideo if the encoder fails."""

    def encode(self, rgb: Rgb, *, key: bool) -> Encoded:
        """Encode one frame [H, W, 3]. `key` requests a frame with which a decoder can start."""


def decoder(coding: Coding) -> FrameDecoder:
    """Create the decoder of one stream."""
    return _DECODERS[coding.format](coding)


def encoder(coding: Coding) -> FrameEncoder:
    """Create the encoder of one stream."""
    return _ENCODERS[coding.format](coding)


def frame_bytes(coding: Coding) -> int | None:
    """Size of a frame in bytes. None for compressed formats."""
    width, height = coding.width, coding.height
    if coding.format is Format.RGB24:
        return 3 * width * height
    if coding.format in (Format.YUV420P, Format.NV12):
        return width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)
    return None


class _RawRgb:
    def __init__(self, coding: Coding) -> None:
        self._coding = coding

    def decode(self, data: bytes | memoryview, number: int) -> list[Decoded]:
        _check_bytes(data, self._coding)
        return [Decoded(np.frombuffer(data, np.uint8).reshape(self._coding.height, self._coding.width, 3), number)]

    def flush(self) -> list[Decoded]:
        return []

    def encode(self, rgb: Rgb, *, key: bool) -> Encoded:
        return Encoded(rgb.tobytes(), key=True)


class _RawYuv:
    def __init__(self, coding: Coding) -> None:
        self._coding, self._color = coding, coding.color
        self._from, self._to = VideoReformatter(), VideoReformatter()

    def decode(self, data: bytes | memoryview, number: int) -> list[Decoded]:
        _check_bytes(data, self._coding)
        frame = VideoFrame(self._coding.width, self._coding.height, self._coding.format.value)
        offset = 0
        for plane, (rows, columns) in zip(frame.planes, _planes(self._coding), strict=True):
            target = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            source = np.frombuffer(data, np.uint8, rows * columns, offset)
            target[:rows, :columns] = source.reshape(rows, columns)
            offset += rows * columns
        return [Decoded(_to_rgb(frame, self._color, self._from), number)]

    def flush(self) -> list[Decoded]:
        return []

    def encode(self, rgb: Rgb, *, key: bool) -> Encoded:
        frame = _from_rgb(rgb, self._coding.format.value, self._color, self._to)
        parts = []
        for plane, (rows, columns) in zip(frame.planes, _planes(self._coding), strict=True):
            source = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            parts.append(source[:rows, :columns].tobytes())
        return Encoded(b"".join(parts), key=True)


class _PictureDecoder:
    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._codec = "mjpeg" if coding.format is Format.JPEG else "png"
        self._reformatter = VideoReformatter()

    def decode(self, data: bytes | memoryview, number: int) -> list[Decoded]:
        # Each picture gets a new context, so a corrupt picture can't affect the next one.
        frames = _decode(_open_decoder(self._codec, self._coding), data, self._coding)
        if len(frames) != 1:
            raise UnusableVideo(f"The bytes are not one {self._coding.format.name} picture.")
        frame = frames[0]
        _check_size(frame, self._coding)
        return [Decoded(_to_rgb(frame, _color_of(frame, self._coding), self._reformatter), number)]

    def flush(self) -> list[Decoded]:
        return []


class _PictureEncoder:
    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._pixel_format = "yuvj420p" if coding.format is Format.JPEG else "rgb24"
        self._color = _tags(SMPTE170M, ColorRange.FULL)
        self._reformatter = VideoReformatter()
        name = "mjpeg" if coding.format is Format.JPEG else "png"
        context = cast("VideoCodecContext", av.CodecContext.create(name, "w"))
        context.width, context.height, context.pix_fmt = coding.width, coding.height, self._pixel_format
        context.time_base, context.thread_count = Fraction(1, 25), 1
        if coding.format is Format.JPEG:
            # libav's scale is 31 (worst) to 1; libjpeg's well-known quality is 1 (worst) to 100.
            context.qmin = context.qmax = max(1, round(31 - 0.3 * coding.quality))
            context.color_range = int(ColorRange.FULL)
        else:
            context.options = {"compression_level": "1"}  # level 9 takes 10 times as long, for 10 % less
        self._context = context
        self._count = 0

    def encode(self, rgb: Rgb, *, key: bool) -> Encoded:
        if self._coding.format is Format.PNG:
            frame = VideoFrame.from_numpy_buffer(np.ascontiguousarray(rgb), "rgb24")
        else:
            frame = _from_rgb(rgb, self._pixel_format, self._color, self._reformatter)
        frame.pts, self._count = self._count, self._count + 1
        return Encoded(bytes(_encode(self._context, frame, self._coding)[0]), key=True)


class _VideoDecoder:
    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._context = _open_decoder(coding.format.value, coding)
        self._reformatter = VideoReformatter()

    def decode(self, data: bytes | memoryview, number: int) -> list[Decoded]:
        return list(self._decoded(_decode(self._context, data, self._coding, number)))

    def flush(self) -> list[Decoded]:
        try:
            frames = self._context.decode(None)
        except (av.error.FFmpegError, EOFError) as error:
            raise UnusableVideo(f"The end of the {self._coding.format.name} stream is corrupt: {error}") from error
        self._context = _open_decoder(self._coding.format.value, self._coding)
        return list(self._decoded(frames))

    def _decoded(self, frames: list[VideoFrame]) -> Iterator[Decoded]:
        for frame in frames:
            _check_size(frame, self._coding)
            yield Decoded(_to_rgb(frame, _color_of(frame, self._coding), self._reformatter), frame.pts or 0)


class _VideoEncoder:
    """Encoder with one access unit for each frame: no reordering and no look-ahead, so no frame is delayed."""

    def __init__(self, coding: Coding) -> None:
        self._coding, self._color = coding, coding.color
        self._reformatter = VideoReformatter()
        name = "libx264" if coding.format is Format.H264 else "libx265"
        context = cast("VideoCodecContext", av.CodecContext.create(name, "w"))
        context.width, context.height, context.pix_fmt = coding.width, coding.height, "yuv420p"
        context.time_base, context.framerate = 1 / coding.frame_rate, coding.frame_rate
        context.thread_count, context.gop_size = 2, 250
        context.colorspace, context.color_range = self._color.matrix, int(self._color.range)
        options = {"preset": "superfast", "tune": "zerolatency", "crf": str(coding.crf), "forced-idr": "1"}
        if coding.format is Format.H264:
            options["x264-params"] = "repeat-headers=1"
        else:
            options["x265-params"] = "repeat-headers=1:log-level=none:frame-threads=1:pools=2:bframes=0"
        context.options = options
        context.flags &= ~Flags.global_header
        self._context = context
        self._count = 0

    def encode(self, rgb: Rgb, *, key: bool) -> Encoded:
        frame = _from_rgb(rgb, "yuv420p", self._color, self._reformatter)
        tag(frame, self._color)
        frame.pts, self._count = self._count, self._count + 1
        if key:
            frame.pict_type = av.video.frame.PictureType.I
        packets = _encode(self._context, frame, self._coding)
        return Encoded(b"".join(bytes(p) for p in packets), key=any(p.is_keyframe for p in packets))


_DECODERS: Final[dict[Format, Callable[[Coding], FrameDecoder]]] = {
    Format.RGB24: _RawRgb,
    Format.YUV420P: _RawYuv,
    Format.NV12: _RawYuv,
    Format.JPEG: _PictureDecoder,
    Format.PNG: _PictureDecoder,
    Format.H264: _VideoDecoder,
    Format.HEVC: _VideoDecoder,
}
_ENCODERS: Final[dict[Format, Callable[[Coding], FrameEncoder]]] = {
    Format.RGB24: _RawRgb,
    Format.YUV420P: _RawYuv,
    Format.NV12: _RawYuv,
    Format.JPEG: _PictureEncoder,
    Format.PNG: _PictureEncoder,
    Format.H264: _VideoEncoder,
    Format.HEVC: _VideoEncoder,
}
_MARGIN: Final = 64
"""Largest difference in pixels between coded and shown size. Codecs pad frames to whole blocks."""


def _open_decoder(name: str, coding: Coding) -> VideoCodecContext:
    context = cast("VideoCodecContext", av.CodecContext.create(name, "r"))
    context.thread_count = 1  # frame threads would delay frames
    context.flags |= Flags.low_delay
    context.options = {"max_pixels": str((coding.width + _MARGIN) * (coding.height + _MARGIN))}
    return context


def _decode(context: VideoCodecContext, data: bytes | memoryview, coding: Coding, number: int = 0) -> list[VideoFrame]:
    if not data:
        raise UnusableVideo(f"The frame is empty; {coding.format.name} of {coding.width}x{coding.height} was expected.")
    packet = av.Packet(bytes(data))  # a small copy of compressed data
    packet.pts = packet.dts = number
    packet.time_base = Fraction(1, 1000)
    try:
        return context.decode(packet)
    except (av.error.FFmpegError, ValueError) as error:
        what = "access unit" if coding.format.is_video else "picture"
        raise UnusableVideo(
            f"The {len(data):,} bytes are no {coding.format.name} {what} of {coding.width}x{coding.height}."
        ) from error


def _encode(context: VideoCodecContext, frame: VideoFrame, coding: Coding) -> list[av.Packet]:  # type: ignore[type-arg]
    try:
        packets = context.encode(frame)
    except (av.error.FFmpegError, ValueError) as error:
        raise UnusableVideo(
            f"Encoding {coding.width}x{coding.height} as {coding.format.name} failed: {error}"
        ) from error
    if not packets:
        raise UnusableVideo(f"The {coding.format.name} encoder delayed a frame.")
    return list(packets)


def _check_bytes(data: bytes | memoryview, coding: Coding) -> None:
    expected = frame_bytes(coding)
    if len(data) != expected:
        raise UnusableVideo(
            f"The frame has {len(data):,} bytes; {coding.width}x{coding.height} {coding.format.name} has {expected:,}."
        )


def _check_size(frame: VideoFrame, coding: Coding) -> None:
    if (frame.width, frame.height) != (coding.width, coding.height):
        raise UnusableVideo(
            f"The frame is {frame.width}x{frame.height}, the stream {coding.width}x{coding.height}. "
            "Start a new stream for another size."
        )


def _planes(coding: Coding) -> list[tuple[int, int]]:
    """Rows, and bytes of a row, of each plane."""
    width, height = coding.width, coding.height
    rows, columns = (height + 1) // 2, (width + 1) // 2
    if coding.format is Format.NV12:
        return [(height, width), (rows, 2 * columns)]
    return [(height, width), (rows, columns), (rows, columns)]


def _tags(matrix: int, color_range: ColorRange) -> Color:
    return Color(primaries=UNSPECIFIED, transfer=UNSPECIFIED, matrix=matrix, range=color_range)


def _color_of(frame: VideoFrame, coding: Coding) -> Color:
    """Colour of a decoded frame: the client's values, else the frame's tags, else a player's defaults."""
    tags = _tags(int(frame.colorspace), ColorRange(int(frame.color_range)))
    if coding.format is Format.JPEG:
        tags = _tags(SMPTE170M, ColorRange.FULL)
    matrix = coding.matrix if coding.format.has_matrix and coding.matrix != UNSPECIFIED else tags.matrix
    color_range = coding.range if coding.format.has_matrix and coding.range else tags.range
    return resolved(_tags(matrix, color_range), pixel_format=frame.format.name, height=frame.height)


def _to_rgb(frame: VideoFrame, color: Color, reformatter: VideoReformatter) -> Rgb:
    if frame.format.name != "rgb24":
        frame = to_rgb(frame, color, reformatter)
    return pixels(frame)  # type: ignore[return-value]  # rgb24 is uint8


def _from_rgb(rgb: Rgb, pixel_format: str, color: Color, reformatter: VideoReformatter) -> VideoFrame:
    frame = VideoFrame.from_numpy_buffer(np.ascontiguousarray(rgb), "rgb24")
    return reformatter.reformat(
        frame,
        frame.width,
        frame.height,
        pixel_format,
        src_color_range=int(ColorRange.FULL),
        dst_colorspace=swscale_matrix(color.matrix),
        dst_color_range=int(color.range),
        interpolation=QUALITY,
        threads=1,
    )
