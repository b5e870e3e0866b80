"""Facts of the video stream, from its headers and first frame."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Final

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.color.alpha import FLATTENED, is_transparent
from media.color.pixel_formats import bit_depth
from media.color.tags import resolved
from media.color.yuv import check_convertible
from media.demux.animations import ANIMATIONS
from media.demux.opening import video_codec
from media.demux.side_data import display_matrix, side_data, unsupported_side_data
from media.demux.track_header import TrackHeader
from media.errors import UnusableVideo
from media.jailed.first_frame import FirstFrame
from media.jailed.header_checks import check_dolby_vision, header_warnings
from media.orientation import pixel_shape
from media.types import Color, ColorRange, VideoInfo

_INTERLACED_ORDERS: Final = range(2, 6)
"""AV_FIELD_TT to AV_FIELD_BT."""
_MAX_DEPTH: Final = 10
"""Bits of one output sample."""


def video_info(
    stream: VideoStream, first: FirstFrame, header: TrackHeader, *, fields: bool = False
) -> tuple[VideoInfo, list[str]]:
    """Collect the facts of the stream, and warnings about changes to its picture.

    Args:
        stream: the video track.
        first: the first frame.
        header: facts of the track that only the container's header holds.
        fields: whether each field of an interlaced frame is to become a frame.

    Raises:
        UnusableVideo: transparency, no time base, or colours that can't be converted.
    """
    frame, codec = first.frame, video_codec(stream)
    transparent = first.has_alpha or is_transparent(frame)
    if transparent and codec not in ANIMATIONS:
        raise UnusableVideo("The video has transparency (an alpha channel), which would be lost. Flatten it first.")
    if not stream.time_base:
        raise UnusableVideo("The video track has no time base.")
    check_dolby_vision(header.dolby_vision, side_data(frame).get("DOVI_METADATA"))
    side, pixel_format = side_data(frame), frame.format.name
    info = VideoInfo(
        index=stream.index,
        codec=codec,
        width=header.crop.width if header.crop else frame.width,
        height=header.crop.height if header.crop else frame.height,
        pixel_format=pixel_format,
        bit_depth=bit_depth(pixel_format),
        frames=stream.frames or None,
        frame_rate=_frame_rate(stream),
        time_base=stream.time_base,
        duration_seconds=seconds(stream.duration, stream.time_base),
        sample_aspect_ratio=pixel_shape(stream.sample_aspect_ratio or Fraction(1), display_matrix(frame)),
        color=_color(frame, first.chroma_location),
        rotation=-int(frame.rotation) % 360,
        display_matrix=display_matrix(frame),
        mastering_display=side.get("MASTERING_DISPLAY_METADATA"),
        content_light=_content_light(side.get("CONTENT_LIGHT_LEVEL")),
        interlaced=stream.codec_context.field_order in _INTERLACED_ORDERS or frame.interlaced_frame,
        fields=fields,
    )
    resolved(info.color, pixel_format=pixel_format, height=info.height)  # raises if the matrix can't be converted
    check_convertible(pixel_format)
    warnings = [*_picture_warnings(info), *header_warnings(header, stream), *unsupported_side_data(frame)]
    return info, [*dict.fromkeys(warnings), *([FLATTENED] if transparent else [])]


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
