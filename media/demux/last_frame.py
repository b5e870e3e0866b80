"""Duration of the last frame. The durations of all other frames follow from the next frame's timestamp."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from media.demux.animations import ANIMATIONS
from media.demux.discontinuities import CLOCK_RATE, has_clock, start_time
from media.demux.monotonic import MonotonicTimestamps
from media.demux.opening import open_untrusted, video_stream
from media.demux.reading import Reading, has_sample_index, missing_samples
from media.demux.seeking import InexactSeek, seek_keyframe
from media.demux.webp import is_webp_animation, read_animation
from media.limits import Limits

HELD_SECONDS: Final = 0.5
"""If the sound goes on for longer after the last picture, the picture is held."""
_STORES_DURATIONS: Final = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_EDIT_SECONDS: Final = Fraction(1, 1000)
"""Usual unit of edit lists, whose ends are rounded."""
_REORDERED: Final = 16
"""Most packets that follow the last frame's packet in coding order."""


def frame_duration(source: Path, pts: int, limits: Limits, unit: Fraction | None = None) -> int | None:
    """Duration of the source's frame at `pts`, in units of the track's time base, or of `unit` seconds.

    With a finer `unit`, `pts` may be the time of the frame's second field: the field's duration is the rest.

    None if the source has no plausible duration. Containers without an index have only libav's guesses; a duration
    above `max_duration_seconds` is an error of the file.
    """
    with open_untrusted(source, limits) as container:
        stream = video_stream(container)
        units = stream.time_base / unit if unit and stream.time_base else Fraction(1)
        frame, second_field = divmod(Fraction(pts) / units, 1)[0], units != 1
        if is_webp_animation(source) and stream.time_base:
            return int(read_animation(source).parts[-1].milliseconds / (1000 * stream.time_base))
        try:
            for packet in _packets(container, stream, frame):
                if packet.pts is None or not _shows(packet, frame, second_field=second_field):
                    continue
                durations = (_until_end(container, stream, packet), packet.duration)
                whole = next((d for d in durations if _is_plausible(d, stream, limits)), None)
                return None if whole is None else round((packet.pts + whole) * units) - pts
        except (InexactSeek, av.error.FFmpegError):
            pass
    return None


def _shows(packet: Packet[VideoStream], time: int, *, second_field: bool) -> bool:
    """Whether a packet's frame begins at a time, or has its second field there."""
    after = time - (packet.pts or 0)
    return after == 0 or (second_field and 0 < after < (packet.duration or 0))


def _packets(container: InputContainer, stream: VideoStream, pts: int) -> Iterator[Packet[VideoStream]]:
    """The stream's packets, from a keyframe before `pts` on. Raises InexactSeek."""
    if container.format.name not in ANIMATIONS:  # short, without an index, and with a delay for each frame
        yield seek_keyframe(container, stream, pts)
    yield from container.demux(stream)


def _until_end(container: InputContainer, stream: VideoStream, packet: Packet[VideoStream]) -> int | None:
    """Units from the last frame to the end of a track in MP4, whose edit list may end inside the frame.

    MP4's packets have the distance to the next packet in coding order as duration. None if the frame is not the last:
    the file breaks off.
    """
    if not has_sample_index(container) or None in (stream.duration, stream.start_time, packet.pts):
        return None
    if missing_samples(stream, after=packet.dts) > _REORDERED:
        return None
    left: int = stream.start_time + stream.duration - packet.pts  # type: ignore[operator]
    is_rounded = abs(left - (packet.duration or 0)) * packet.time_base <= _EDIT_SECONDS
    return packet.duration if is_rounded else left


def _is_plausible(duration: int | None, stream: VideoStream, limits: Limits) -> bool:
    return 0 < (duration or 0) * (stream.time_base or 0) <= limits.max_duration_seconds


def sound_ends(source: Path, after: Fraction, limits: Limits) -> Iterator[Fraction]:
    """Yield the end of the sound in seconds, again and again while it is read. The last value counts.

    A player shows the last picture as long as there is sound, if the container stores no durations of frames. Yields
    nothing in other containers, and if headers say that the sound ends with the picture at `after` seconds.
    """
    with open_untrusted(source, limits) as container:
        if container.format.name in _STORES_DURATIONS or _last_sound(container) - after < HELD_SECONDS:
            return
        timestamps = {stream.index: MonotonicTimestamps() for stream in container.streams.audio}
        end = Fraction(0)
        for packet in Reading(container, list(container.streams.audio)):
            if packet.size and packet.dts is not None and timestamps[packet.stream.index].admit(packet):
                end = max(end, (packet.dts + (packet.duration or 0)) * packet.time_base)
                yield end


def _last_sound(container: InputContainer) -> Fraction:
    """End of the sound in seconds, as headers say."""
    origin = Fraction(start_time(container), CLOCK_RATE) if has_clock(container) else Fraction(0)
    whole = Fraction(container.duration or 0, av.time_base)
    ends = [
        whole if s.duration is None else ((s.start_time or 0) + s.duration) * (s.time_base or 0) - origin
        for s in container.streams.audio
    ]
    return max(ends, default=Fraction(0))
