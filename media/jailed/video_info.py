"""Facts of the video stream, from its headers and first frame."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Final

from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.color.pixel_formats import bit_depth, is_transparent
from media.color.tags import resolved
from media.demux.side_data import display_matrix, side_data, unsupported_side_data
from media.errors import UnusableVideo
from media.orientation import pixel_shape
from media.types import Color, ColorRange, VideoInfo

_INTERLACED_ORDERS: Final = range(2, 6)
"""AV_FIELD_TT to AV_FIELD_BT."""
_MAX_DEPTH: Final = 10
"""Bits of one output sample."""


def video_info(
    stream: VideoStream, frame: VideoFrame, chroma_location: str, *, fields: bool = False
) -> tuple[VideoInfo, list[str]]:
    """Collect the facts of the stream, and warnings about changes to its picture.

    Args:
        frame: the first frame.
        chroma_location: libav's name of the chroma samples' location.
        fields: whether each field of an interlaced frame is to become a frame.

    Raises:
        UnusableVideo: transparency, no time base, or a colour matrix that can't be converted.
    """
    if is_transparent(frame) or stream.metadata.get("alpha_mode") == "1":
        raise UnusableVideo("The video has transparency (an alpha channel), which would be lost. Flatten it first.")
    if not stream.time_base:
        raise UnusableVideo("The video track has no time base.")
    side, pixel_format = side_data(frame), frame.format.name
    info = VideoInfo(
        index=stream.index,
        codec=stream.codec_context.codec.canonical_name,
        width=frame.width,
        height=frame.height,
        pixel_format=pixel_format,
        bit_depth=bit_depth(pixel_format),
        frames=stream.frames or None,
        frame_rate=_frame_rate(stream),
        time_base=stream.time_base,
        duration_seconds=seconds(stream.duration, stream.time_base),
        sample_aspect_ratio=pixel_shape(stream.sample_aspect_ratio or Fraction(1), display_matrix(frame)),
        color=_color(frame, chroma_location),
        rotation=-int(frame.rotation) % 360,
        display_matrix=display_matrix(frame),
        mastering_display=side.get(SideDataType.MASTERING_DISPLAY_METADATA),
        content_light=_content_light(side.get(SideDataType.CONTENT_LIGHT_LEVEL)),
        interlaced=stream.codec_context.field_order in _INTERLACED_ORDERS or frame.interlaced_frame,
        fields=fields,
    )
    resolved(info.color, pixel_format=pixel_format, height=info.height)  # raises if the matrix can't be converted
    return info, [*_picture_warnings(info), *unsupported_side_data(frame)]


def seconds(value: int | None, time_base: Fraction) -> float | None:
    """A duration in seconds. None if unknown."""
    return float(value * time_base) if value is not None and value > 0 else None


def _picture_warnings(info: VideoInfo) -> list[str]:
    warnings = []
    if info.interlaced:
        into = "one frame for each field" if info.fields else "one frame for two fields"
        warnings.append(f"The video is interlaced; it is deinterlaced (bwdif) to {into}.")
    if info.bit_depth > _MAX_DEPTH:
        warnings.append(f"{info.bit_depth}-bit samples are reduced to {_MAX_DEPTH} bits.")
    return warnings


def _color(frame: VideoFrame, chroma_location: str) -> Color:
    return Color(
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        matrix=int(frame.colorspace),
        range=ColorRange(frame.color_range) if frame.color_range in (0, 1, 2) else ColorRange.UNSPECIFIED,
        chroma_location=chroma_location,
    )


def _frame_rate(stream: VideoStream) -> Fraction | None:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= 1000:
            return rate
    return None


def _content_light(data: bytes | None) -> tuple[int, int] | None:
    return struct.unpack("=II", data[:8]) if data and len(data) >= 8 else None
