"""Clips in the formats that old and odd footage comes in, encoded at run time."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

FRAMES: Final = 6


@dataclass(frozen=True)
class Kind:
    """A container, an encoder, and the facts that a reader should find."""

    suffix: str
    encoder: str
    pixel_format: str
    width: int = 64
    height: int = 48
    decibels: float = 30
    """Least likeness of the first frame, as PSNR."""
    muxer: str = ""
    """libav's name of the container, if not the suffix."""
    even: bool = True
    """Whether the container stores all times exactly."""

    @property
    def name(self) -> str:
        return f"{self.encoder} {self.pixel_format} in {self.suffix}"


_MKV, _ASF = "matroska", "asf"
KINDS: Final = (
    Kind("gif", "gif", "bgr8", decibels=24),
    Kind("apng", "apng", "rgb24", decibels=90),
    Kind("apng", "apng", "rgb48be", decibels=45),
    Kind("webp", "libwebp_anim", "bgra"),
    Kind("avi", "cinepak", "rgb24"),
    Kind("mov", "cinepak", "rgb24"),
    Kind("mov", "svq1", "yuv410p"),
    Kind("mov", "smc", "pal8", decibels=20),
    Kind("mov", "qtrle", "rgb24", decibels=90),
    Kind("mov", "qtrle", "rgb555be"),
    Kind("mov", "rawvideo", "rgb555be"),
    Kind("mov", "rawvideo", "rgb24", decibels=90),
    Kind("flv", "flv", "yuv420p"),
    Kind("flv", "flashsv", "bgr24", decibels=90),
    Kind("flv", "flashsv2", "bgr24"),
    Kind("swf", "flv", "yuv420p"),
    Kind("rm", "rv10", "yuv420p", 176, 144),
    Kind("rm", "rv20", "yuv420p", 176, 144),
    Kind("wtv", "mpeg2video", "yuv420p"),
    Kind("wmv", "wmv1", "yuv420p", muxer=_ASF),
    Kind("wmv", "wmv2", "yuv420p", muxer=_ASF),
    Kind("asf", "msmpeg4", "yuv420p"),
    Kind("avi", "msmpeg4v2", "yuv420p"),
    Kind("avi", "msvideo1", "rgb555le"),
    Kind("avi", "msrle", "pal8", decibels=20),
    Kind("avi", "rawvideo", "pal8", decibels=20),
    Kind("avi", "rawvideo", "rgb555le"),
    Kind("avi", "zmbv", "bgr0", decibels=90),
    Kind("avi", "zlib", "bgr24", decibels=90),
    Kind("avi", "huffyuv", "yuv422p", decibels=40),
    Kind("avi", "ffvhuff", "yuv420p", decibels=40),
    Kind("avi", "utvideo", "yuv420p", decibels=40),
    Kind("avi", "magicyuv", "yuv444p", decibels=40),
    Kind("avi", "asv1", "yuv420p"),
    Kind("avi", "asv2", "yuv420p"),
    Kind("avi", "snow", "yuv420p"),
    Kind("avi", "y41p", "yuv411p"),
    Kind("avi", "cljr", "yuv411p"),
    Kind("avi", "jpegls", "rgb24", decibels=90),
    Kind("avi", "h263p", "yuv420p", 176, 144),
    Kind("3gp", "h263", "yuv420p", 176, 144),
    Kind("h261", "h261", "yuv420p", 176, 144, even=False),
    Kind("h263", "h263", "yuv420p", 176, 144, even=False),
    Kind("roq", "roqvideo", "yuvj444p", 64, 64),
    Kind("mov", "cfhd", "yuv422p10le"),
    Kind("mov", "cfhd", "gbrp12le"),
    Kind("mov", "prores", "yuv422p10le"),
    Kind("mov", "v210", "yuv422p10le"),
    Kind("mov", "r210", "gbrp10le"),
    Kind("mov", "jpeg2000", "rgb24"),
    Kind("mov", "tiff", "rgb24", decibels=90),
    Kind("mov", "targa", "bgr24", decibels=90),
    Kind("mov", "png", "rgb24", decibels=90),
    Kind("mov", "png", "pal8", decibels=20),
    Kind("mov", "sgi", "rgb24", decibels=90),
    Kind("mov", "dxv", "rgba", 64, 64),
    Kind("dv", "dvvideo", "yuv420p", 720, 576),
    Kind("gxf", "mpeg2video", "yuv420p", 720, 576, even=False),
    Kind("mxf", "mpeg2video", "yuv420p"),
    Kind("mjpeg", "mjpeg", "yuvj420p"),
    Kind("smjpeg", "mjpeg", "yuvj420p"),
    Kind("nut", "ffv1", "yuv420p", decibels=40),
    Kind("mkv", "ffv1", "yuv420p", decibels=40, muxer=_MKV),
    Kind("obu", "libsvtav1", "yuv420p"),
)


def picture(number: int, width: int, height: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A slope of colours with a white square that moves, [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], -1).astype(np.uint8)
    side = height // 4
    left = number * side // 4 % (width - side)
    rgb[side : 2 * side, left : left + side] = 255
    return rgb


def write_kind(path: Path, kind: Kind) -> Path:
    """Encode `FRAMES` pictures at 25 frames/s."""
    with av.open(str(path), "w", format=kind.muxer or kind.suffix) as container:
        stream: Any = container.add_stream(kind.encoder, rate=25, options={"strict": "-2"})
        stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, kind.pixel_format
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number, kind.width, kind.height), format="rgb24")
            if kind.pixel_format == "pal8":
                frame = _with_palette(frame)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _with_palette(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame with a fixed palette of 3, 3 and 2 bits."""
    small, indexed = frame.reformat(format="bgr8"), av.VideoFrame(frame.width, frame.height, "pal8")
    rows = np.zeros((frame.height, indexed.planes[0].line_size), np.uint8)
    rows[:, : frame.width] = small.to_ndarray()
    indexed.planes[0].update(rows.tobytes())
    colors = [((n >> 6) * 85, (n >> 3 & 7) * 36, (n & 7) * 36, 255) for n in range(256)]
    indexed.planes[1].update(bytes(value for color in colors for value in color))
    return indexed
