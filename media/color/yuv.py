"""RGB ↔ YUV conversion by swscale, with the stream's own matrix and range."""

from __future__ import annotations

from typing import Final

from av.error import FFmpegError
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from media.color.filters import filter_chain
from media.color.pixel_formats import bit_depth, is_rgb
from media.color.tags import swscale_matrix, tag
from media.errors import UnusableVideo
from media.types import Color, ColorRange

# Beside the encoder, accurate rounding and full chroma resolution cost no measurable time.
QUALITY: Final = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
DOWNSCALE: Final = Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_GREY: Final = ("gray", *(f"gray{bits}{order}" for bits in (9, 10, 12, 14, 16) for order in ("le", "be")))
_BIG_ENDIAN: Final = ("rgb555be", "bgr555be", "rgb565be", "bgr565be")


def to_rgb(
    frame: VideoFrame,
    color: Color,
    reformatter: VideoReformatter,
    *,
    size: tuple[int, int] | None = None,
    pixel_format: str = "rgb24",
) -> VideoFrame:
    """Convert a frame to RGB of full range.

    Args:
        color: matrix and range, resolved by `media.color.tags.resolved`.
        reformatter: swscale's context, reused between frames.
        size: width and height to scale to.
        pixel_format: rgb24 or rgb48le.
    """
    width, height = size or (frame.width, frame.height)
    frame = _understood(frame)
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


def _understood(frame: VideoFrame) -> VideoFrame:
    """The frame in a format that swscale reads right.

    swscale takes every grey sample for full range, and reads 15 and 16 bits of a pixel in this machine's byte order.
    """
    name = frame.format.name
    if name in _GREY and frame.color_range == ColorRange.LIMITED:
        full = int(ColorRange.FULL)
        coded = name.replace("gray", "yuv444p")
        return VideoReformatter().reformat(frame, format=coded, src_color_range=full, dst_color_range=full)
    if name in _BIG_ENDIAN:
        swapped = VideoFrame(frame.width, frame.height, name.replace("be", "le"))
        for plane, target in zip(frame.planes, swapped.planes, strict=True):
            data = bytearray(plane)
            data[::2], data[1::2] = data[1::2], data[::2]
            target.update(bytes(data))
        return swapped
    return frame


def check_convertible(pixel_format: str) -> None:
    """Raise UnusableVideo if frames of this format can't be converted to RGB."""
    if pixel_format.startswith("bayer_"):
        raise UnusableVideo("The video holds the raw samples of a camera's sensor. Develop the video first.")
    try:
        VideoReformatter().reformat(VideoFrame(16, 16, pixel_format), format="rgb24")
    except (FFmpegError, ValueError) as error:
        raise UnusableVideo(f"The pixel format {pixel_format} of the video can't be converted.") from error


class RgbToYuv:
    """Converter from RGB frames (rgb24, rgb48le) to one YUV format, tagged with its matrix and range."""

    def __init__(self, color: Color, pixel_format: str) -> None:
        self._color = color
        # From 8 bits to full range, swscale truncates chroma: the mean is half a level too low. Through a 12-bit
        # format, swscale dithers: the mean is off by 0.03 levels.
        detour = color.range == ColorRange.FULL and bit_depth(pixel_format) == 8
        formats = ("yuv420p12le", pixel_format) if detour else (pixel_format,)
        self._steps = [(name, VideoReformatter()) for name in formats]
        self._chroma = _ChromaLocation(color.chroma_location)

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Convert one frame."""
        frame = self._chroma(frame)
        matrix, color_range = swscale_matrix(self._color.matrix), int(self._color.range)
        source_matrix, source_range = None, int(ColorRange.FULL)
        for pixel_format, reformatter in self._steps:
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


class _ChromaLocation:
    """Marks frames with the place at which swscale puts the chroma samples. swscale's default is left."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._graph: Graph | None = None

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        if self._location in ("unspecified", "left"):
            return frame
        if self._graph is None:
            self._graph = filter_chain(frame, f"setparams=chroma_location={self._location}")
        self._graph.vpush(frame)
        return self._graph.vpull()
