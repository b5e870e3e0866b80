"""Duration of the last frame. The durations of all other frames follow from the next frame's timestamp."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import av

from media.demux.opening import open_untrusted, video_stream
from media.demux.seeking import InexactSeek, seek_keyframe
from media.limits import Limits


def frame_duration(source: Path, pts: int, limits: Limits) -> int | None:
    """Duration of the source's frame at `pts`, in units of the track's time base.

    None if the source has no plausible duration. Containers without an index have only libav's guesses; a duration
    above `max_duration_seconds` is an error of the file.
    """
    with open_untrusted(source, limits) as container:
        stream = video_stream(container)
        try:
            for packet in chain([seek_keyframe(container, stream, pts)], container.demux(stream)):
                if packet.pts == pts:
                    seconds = (packet.duration or 0) * packet.time_base
                    return packet.duration if 0 < seconds <= limits.max_duration_seconds else None
        except (InexactSeek, av.error.FFmpegError):
            pass
    return None
