"""Coding of a live stream's frames: bytes of the network ↔ RGB arrays, without files or containers.

Formats: raw RGB and YUV, JPEG and PNG pictures, H.264 and HEVC access units (Annex B). The bytes are untrusted: their
size is checked against the stream's before memory is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol, cast

import av
import numpy as np
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from media.coding import Coding, Format, tags
from media.color.pixels import pixels
from media.color.tags import SMPTE170M, swscale_matrix, tag
from media.color.yuv import QUALITY, to_rgb
from media.errors import UnusableVideo
from media.limits import DEFAULT_LIMITS, Limits
from media.live.confined import ConfinedDecoder
from media.types import Color, ColorRange

__all__ = ["Coding", "Decoded", "Encoded", "Format", "FrameDecoder", "Rgb", "decoder", "encoder", "frame_bytes"]

Rgb = NDArray[np.uint8]


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
        """The frames completed by the bytes: exactly one, except for H.264 and HEVC."""

    def flush(self) -> list[Decoded]:
        """The delayed frames. Afterwards a new sequence can begin."""

    def close(self) -> None:
        """Release the decoder's process, also while another thread decodes."""


class FrameEncoder(Protocol):
    """Frames → bytes. Raises UnusableVideo if the encoder fails."""

    def encode(self, rgb: Rgb, *, key: bool) -> Encoded:
        """Encode one frame [H, W, 3]. `key` requests a frame with which a decoder can start."""


def decoder(coding: Coding, limits: Limits = DEFAULT_LIMITS) -> FrameDecoder:
    """Create the decoder of one stream. A child process with `limits` decodes compressed formats; call `close`."""
    if frame_bytes(coding) is None:
        return _Compressed(coding, limits)
    return _RawRgb(coding) if coding.format is Format.RGB24 else _RawYuv(coding)


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


class _Compressed:
    def __init__(self, coding: Coding, limits: Limits) -> None:
        self._decoder = ConfinedDecoder(coding, limits)

    def decode(self, data: bytes | memoryview, number: int) -> list[Decoded]:
        return [Decoded(*item) for item in self._decoder.decode(data, number)]

    def flush(self) -> list[Decoded]:
        return [Decoded(*item) for item in self._decoder.flush()]

    def close(self) -> None:
        self._decoder.close()


class _Raw:
    def flush(self) -> list[Decoded]:
        return []

    def close(self) -> None:
        """There is no process."""


class _RawRgb(_Raw):
    def __init__(self, coding: Coding) -> None:
        self._coding = coding

    def decode(self, data: bytes | memoryview, number: int) -> list[Decoded]:
        _check_bytes(data, self._coding)
        return [Decoded(np.frombuffer(data, np.uint8).reshape(self._coding.height, self._coding.width, 3), number)]

    def encode(self, rgb: Rgb, *, key: bool) -> Encoded:
        return Encoded(rgb.tobytes(), key=True)


class _RawYuv(_Raw):
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

    def encode(self, rgb: Rgb, *, key: bool) -> Encoded:
        frame = _from_rgb(rgb, self._coding.format.value, self._color, self._to)
        parts = []
        for plane, (rows, columns) in zip(frame.planes, _planes(self._coding), strict=True):
            source = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            parts.append(source[:rows, :columns].tobytes())
        return Encoded(b"".join(parts), key=True)


class _PictureEncoder:
    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._pixel_format = "yuvj420p" if coding.format is Format.JPEG else "rgb24"
        self._color = tags(SMPTE170M, ColorRange.FULL)
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


class _VideoEncoder:
    """Encoder with an access unit for each frame. Without reordering and look-ahead, no frame is delayed."""

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


_ENCODERS: Final[dict[Format, Callable[[Coding], FrameEncoder]]] = {
    Format.RGB24: _RawRgb,
    Format.YUV420P: _RawYuv,
    Format.NV12: _RawYuv,
    Format.JPEG: _PictureEncoder,
    Format.PNG: _PictureEncoder,
    Format.H264: _VideoEncoder,
    Format.HEVC: _VideoEncoder,
}


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


def _planes(coding: Coding) -> list[tuple[int, int]]:
    """Rows, and bytes of a row, of each plane."""
    width, height = coding.width, coding.height
    rows, columns = (height + 1) // 2, (width + 1) // 2
    if coding.format is Format.NV12:
        return [(height, width), (rows, 2 * columns)]
    return [(height, width), (rows, columns), (rows, columns)]


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
