"""Facts of a source file and of its output: plain values that need no PyAV."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import NamedTuple


class ColorRange(IntEnum):
    """Sample values of black and white: 16 and 235 (limited), or 0 and 255 (full), for 8 bits."""

    UNSPECIFIED = 0
    LIMITED = 1
    FULL = 2


UNSPECIFIED = 2
"""H.273's code point for unspecified primaries, transfer characteristics and matrix coefficients."""


@dataclass(frozen=True)
class Color:
    """Colour tags as code points of ITU-T H.273. libav uses the same numbers."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: ColorRange = ColorRange.UNSPECIFIED
    chroma_location: str = "unspecified"
    """libav's name: left, center, topleft, …"""


class Canvas(NamedTuple):
    """Size and shape of all frames that a reader delivers, although parts of the video differ."""

    width: int
    height: int
    sample_aspect_ratio: Fraction = Fraction(1)


@dataclass(frozen=True)
class VideoInfo:
    """The video stream to upscale. Sizes are coded sizes, before rotation."""

    index: int
    codec: str
    width: int
    height: int
    pixel_format: str
    bit_depth: int
    frames: int | None
    """None if neither header nor index has the number."""
    frame_rate: Fraction | None
    """Average. Frames of a clip with variable frame rate keep their own timestamps."""
    time_base: Fraction
    """Seconds of one unit of a frame's `pts`."""
    duration_seconds: float | None
    sample_aspect_ratio: Fraction
    color: Color
    rotation: int = 0
    """Clockwise degrees by which a player rotates the picture."""
    display_matrix: tuple[int, ...] | None = None
    """The nine numbers of the container's display matrix, if present."""
    mastering_display: bytes | None = None
    """HDR10's mastering display metadata in libav's layout (AVMasteringDisplayMetadata)."""
    content_light: tuple[int, int] | None = None
    """HDR10's MaxCLL and MaxFALL, in cd/m²."""
    interlaced: bool = False
    nominal_rate: Fraction | None = None
    """Rate of the frames that move, for the encoder's rate control. None: `frame_rate`."""
    film: bool = False
    """Whether flags say that the frames are film, shown for three and two fields in turn (soft telecine)."""
    fields: bool = False
    """Whether each field of an interlaced frame is to become a frame of the result."""

    @property
    def frames_of_each(self) -> int:
        """Frames of the result for each frame of the source."""
        return 2 if self.fields and self.interlaced else 1

    @property
    def output_frames(self) -> int | None:
        """Expected number of frames of the result. None if unknown."""
        return None if self.frames is None else self.frames * self.frames_of_each

    @property
    def output_time_base(self) -> Fraction:
        """Seconds of one unit of the frames' pts: a second field is shown halfway to the next frame."""
        return self.time_base / 2 if self.fields else self.time_base

    @property
    def canvas(self) -> Canvas:
        """Size and shape of the frames that the network receives."""
        return Canvas(self.width, self.height, self.sample_aspect_ratio)


@dataclass(frozen=True)
class TrackInfo:
    """An audio or subtitle track."""

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
    """Short name: mp4, mkv, avi, …"""
    duration_seconds: float | None
    size_bytes: int
    video: VideoInfo
    audio: tuple[AudioInfo, ...] = ()
    subtitles: tuple[TrackInfo, ...] = ()
    attachments: tuple[str, ...] = ()
    """File names of attachments, mostly fonts."""
    chapters: int = 0
    target: str = "mp4"
    """Container of the result: mp4, mkv, mov or webm."""
    warnings: tuple[str, ...] = ()
    """Losses and changes that `target` makes necessary."""


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number and its noun: 1 frame, 2 frames."""
    return f"1 {singular}" if number == 1 else f"{number} {plural or singular + 's'}"


@dataclass(frozen=True)
class OutputSpec:
    """The output's video stream and container. All segments of a job share one."""

    width: int
    height: int
    codec: str
    """h264, hevc or av1."""
    encoder: str
    """libav's name of the encoder, for example libx264."""
    crf: int
    pixel_format: str
    frame_rate: Fraction
    """Nominal; frames keep their own timestamps."""
    time_base: Fraction
    """Seconds of one unit of the `pts` given to `SegmentWriter.write`."""
    sample_aspect_ratio: Fraction
    color: Color
    display_matrix: tuple[int, ...] | None
    mastering_display: bytes | None
    content_light: tuple[int, int] | None
    flip: str = ""
    """The mirroring of pixels before encoding, for containers without mirrored display: horizontal, vertical or ""."""
    container: str = "mp4"
    encoder_rate: Fraction | None = None
    """Frame rate for the encoder's rate control. None: `frame_rate`."""
    warnings: tuple[str, ...] = ()
    """Differences between the source's picture and the output's."""
    threads: int = 4
    """Threads of the encoder, whose bytes depend on their number."""
    enlarged: bool = False
    """Whether the frames are at least twice as wide as the source's, and so hold no detail of a few pixels."""
