"""Duration of the last frame. The durations of all other frames follow from the next frame's timestamp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from media.demux.animations import ANIMATIONS
from media.demux.opening import open_untrusted, video_stream
from media.demux.seeking import InexactSeek, seek_keyframe
from media.limits import Limits

_CUT_BY_EDITS: Final = "mov,mp4,m4a,3gp,3g2,mj2"
"""Containers whose edit list ends the track, maybe inside its last frame. A packet's duration is the distance to the
next packet in coding order."""


def frame_duration(source: Path, pts: int, limits: Limits) -> int | None:
    """Duration of the source's frame at `pts`, in units of the track's time base.

    None if the source has no plausible duration. Containers without an index have only libav's guesses; a duration
    above `max_duration_seconds` is an error of the file.
    """
    with open_untrusted(source, limits) as container:
        stream = video_stream(container)
        try:
            for packet in _packets(container, stream, pts):
                if packet.pts == pts:
                    durations = (_until_end(stream, pts), packet.duration)
                    return next((d for d in durations if _is_plausible(d, stream, limits)), None)
        except (InexactSeek, av.error.FFmpegError):
            pass
    return None


def _packets(container: InputContainer, stream: VideoStream, pts: int) -> Iterator[Packet[VideoStream]]:
    """The stream's packets, from a keyframe before `pts` on. Raises InexactSeek."""
    if container.format.name not in ANIMATIONS:  # short, without an index, and with a delay for each frame
        yield seek_keyframe(container, stream, pts)
    yield from container.demux(stream)


def _until_end(stream: VideoStream, pts: int) -> int | None:
    """Units from `pts` to the end of a track with an end of its own."""
    if stream.container.format.name != _CUT_BY_EDITS or stream.duration is None or stream.start_time is None:
        return None
    return stream.start_time + stream.duration - pts


def _is_plausible(duration: int | None, stream: VideoStream, limits: Limits) -> bool:
    return 0 < (duration or 0) * (stream.time_base or 0) <= limits.max_duration_seconds
