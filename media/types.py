"""What is known of a file: plain values, so that nobody else needs PyAV to read them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction


class ColorRange(IntEnum):
    """Which sample values mean black and white."""

    UNSPECIFIED = 0
    LIMITED = 1
    FULL = 2


UNSPECIFIED = 2
"""H.273's code point for unspecified primaries, transfer characteristics and matrix coefficients."""


@dataclass(frozen=True)
class Color:
    """Colour tags, as the code points of ITU-T H.273 (which libav's numbers are)."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: ColorRange = ColorRange.UNSPECIFIED
    chroma_location: str = "unspecified"
    """left, center, topleft, … as libav calls them."""


@dataclass(frozen=True)
class VideoInfo:
    """The video stream that is upscaled. Sizes are as stored, before rotation."""

    index: int
    codec: str
    width: int
    height: int
    pixel_format: str
    bit_depth: int
    frames: int | None
    """None where neither the header nor the index says."""
    frame_rate: Fraction | None
    """Average; the frames of a VFR clip keep their own times."""
    time_base: Fraction
    """Seconds of one unit of a frame's `pts`."""
    duration_seconds: float | None
    sample_aspect_ratio: Fraction
    color: Color
    rotation: int = 0
    """Degrees clockwise by which a player turns the picture."""
    display_matrix: tuple[int, ...] | None = None
    """The nine numbers of the container's display matrix, where it has one."""
    mastering_display: bytes | None = None
    """HDR10's mastering display metadata, as libav lays it out (AVMasteringDisplayMetadata)."""
    content_light: tuple[int, int] | None = None
    """HDR10's MaxCLL and MaxFALL, in cd/m²."""
    interlaced: bool = False


@dataclass(frozen=True)
class TrackInfo:
    """An audio, subtitle or other track that goes along."""

    index: int
    codec: str
    language: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class AudioInfo(TrackInfo):
    """An audio track."""

    sample_rate: int = 0
    channels: int = 0


@dataclass(frozen=True)
class MediaInfo:
    """A file that can be upscaled."""

    container: str
    """mp4, mkv, avi, …"""
    duration_seconds: float | None
    size_bytes: int
    video: VideoInfo
    audio: tuple[AudioInfo, ...] = ()
    subtitles: tuple[TrackInfo, ...] = ()
    attachments: tuple[str, ...] = ()
    """File names of attachments (fonts, for the most part)."""
    chapters: int = 0
    target: str = "mp4"
    """Container of the result: mp4, mkv, mov or webm."""
    warnings: tuple[str, ...] = ()
    """What cannot be kept in `target`, or will be changed."""
