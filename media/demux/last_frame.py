"""How long the last frame is shown: the one time that does not follow from when the next one is."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import av

from media.demux.container import open_untrusted, video_stream
from media.demux.seeking import InexactSeek, seek
from media.limits import Limits


def shown_for(source: Path, pts: int, limits: Limits) -> int | None:
    """How long the source says that its frame of time `pts` is shown, both in the track's units.

    None where it does not say (containers without an index have no durations but those that libav makes up), or says
    what can't be: longer than any video may be.
    """
    with open_untrusted(source, limits) as container:
        stream = video_stream(container)
        try:
            for packet in chain([seek(container, stream, pts)], container.demux(stream)):
                if packet.pts == pts:
                    seconds = (packet.duration or 0) * packet.time_base
                    return packet.duration if 0 < seconds <= limits.max_duration_seconds else None
        except (InexactSeek, av.error.FFmpegError):
            pass
    return None
