"""RGB ↔ YUV by the stream's own matrix and range, in swscale."""

from __future__ import annotations

import sys
from dataclasses import replace
from fractions import Fraction
from typing import Final

from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from media.errors import UnusableVideo
from media.types import UNSPECIFIED, Color, ColorRange

RGB, BT709, FCC, BT470BG, SMPTE170M, SMPTE240M, YCGCO, BT2020_NCL, BT2020_CL = 0, 1, 4, 5, 6, 7, 8, 9, 10

# H.273 matrix coefficients → the number by which PyAV's reformatter calls that matrix (SWS_CS_*).
_SWSCALE: Final = {BT709: 1, FCC: 4, BT470BG: 5, SMPTE170M: 5, SMPTE240M: 7, BT2020_NCL: 9}

_WITH_ALPHA: Final = ("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "ayuv")

# Accurate rounding and full chroma resolution cost nothing measurable beside the encoder, and keep colours exact.
QUALITY: Final = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
DOWNSCALE: Final = Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def is_rgb(pixel_format: str) -> bool:
    """Whether the samples are RGB (or a palette of it), so that no matrix applies."""
    return VideoFormat(pixel_format, 16, 16).is_rgb or pixel_format == "pal8"


def is_transparent(frame: VideoFrame) -> bool:
    """Whether something could be seen through the picture: its format says so, or a colour of its palette in use."""
    if frame.format.name != "pal8":
        return frame.format.name.startswith(_WITH_ALPHA)
    pixels, palette = frame.planes[0], bytes(frame.planes[1])
    rows, width = bytes(pixels), pixels.line_size
    used = {index for y in range(frame.height) for index in set(rows[y * width : y * width + frame.width])}
    return any(int.from_bytes(palette[4 * index : 4 * index + 4], sys.byteorder) >> 24 < 255 for index in used)


def bit_depth(pixel_format: str) -> int:
    """Bits of one colour sample."""
    if pixel_format == "pal8":
        return 8
    return max((c.bits for c in VideoFormat(pixel_format, 16, 16).components), default=8)


def effective(color: Color, *, pixel_format: str, height: int) -> Color:
    """`color` with the matrix and range that a player assumes where the file names none.

    An untagged clip is BT.601 if it is of standard definition, else BT.709. The result is larger, so without a tag a
    player would guess anew, and differently: what is converted by must be what is written.

    Raises:
        UnusableVideo: a matrix that swscale can't convert (YCgCo, ICtCp, constant luminance).
    """
    matrix, color_range = color.matrix, color.range
    if is_rgb(pixel_format):
        matrix, color_range = BT709, ColorRange.LIMITED
    elif matrix in (UNSPECIFIED, RGB):
        matrix = BT709 if height > 576 else SMPTE170M
    if color_range == ColorRange.UNSPECIFIED:
        color_range = ColorRange.FULL if pixel_format.startswith("yuvj") else ColorRange.LIMITED
    if matrix not in _SWSCALE:
        raise UnusableVideo(f"its colour matrix (H.273 code {matrix}) can't be converted; re-encode it as BT.709 first")
    return replace(color, matrix=matrix, range=color_range)


def swscale_matrix(matrix: int) -> int:
    """The number by which the reformatter calls the H.273 matrix."""
    return _SWSCALE[matrix]


def rgb_format(depth: int) -> str:
    """Pixel format of the frames between reader and writer: 8 bits a sample, or 16 for deeper sources."""
    return "rgb24" if depth <= 8 else "rgb48le"


def tag(frame: VideoFrame, color: Color) -> None:
    """Write the colour tags to a frame, from which the encoders take them."""
    frame.colorspace = color.matrix
    frame.color_range = int(color.range)
    frame.color_primaries = color.primaries
    frame.color_trc = color.transfer


def to_rgb(
    frame: VideoFrame,
    color: Color,
    reformatter: VideoReformatter,
    *,
    size: tuple[int, int] | None = None,
    pixel_format: str = "rgb24",
) -> VideoFrame:
    """A frame as RGB of full range, by the matrix and range of `color` (`effective`); scaled to `size` if given."""
    width, height = size or (frame.width, frame.height)
    matrix = None if is_rgb(frame.format.name) else swscale_matrix(color.matrix)
    return reformatter.reformat(
        frame,
        width,
        height,
        pixel_format,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=None if matrix is None else int(color.range),
        dst_color_range=int(ColorRange.FULL),
        interpolation=QUALITY,
        threads=1,
    )


class RgbToYuv:
    """RGB frames (rgb24, rgb48le) → YUV of one format, by a matrix, range and chroma location, tagged with them."""

    def __init__(self, color: Color, pixel_format: str) -> None:
        self._color, self._format = color, pixel_format
        self._first, self._second = VideoReformatter(), VideoReformatter()
        self._placing: Graph | None = None
        # swscale cuts chroma off where it converts 8 bits straight to full range: half a level too low on the mean.
        # By way of 12 bits it dithers instead: off by 0.03.
        self._detour = "yuv420p12le" if color.range == ColorRange.FULL and bit_depth(pixel_format) == 8 else None

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Convert one frame."""
        frame = self._placed(frame)
        matrix, color_range = swscale_matrix(self._color.matrix), int(self._color.range)
        source_matrix, source_range = None, int(ColorRange.FULL)
        for reformatter, pixel_format in ((self._first, self._detour), (self._second, self._format)):
            if pixel_format is None:
                continue
            frame = reformatter.reformat(
                frame,
                format=pixel_format,
                src_colorspace=source_matrix,
                src_color_range=source_range,
                dst_colorspace=matrix,
                dst_color_range=color_range,
                interpolation=QUALITY,
                threads=1,
            )
            source_matrix, source_range = matrix, color_range
        tag(frame, self._color)
        return frame

    def _placed(self, frame: VideoFrame) -> VideoFrame:
        """The frame with the location on it at which swscale is to put the chroma samples; left is its default."""
        location = self._color.chroma_location
        if location in ("unspecified", "left"):
            return frame
        if self._placing is None:
            self._placing = Graph()
            self._placing.threads = 1
            source = self._placing.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
            )
            mark = self._placing.add("setparams", f"chroma_location={location}")
            self._placing.link_nodes(source, mark, self._placing.add("buffersink"))
            self._placing.configure()
        self._placing.vpush(frame)
        return self._placing.vpull()
