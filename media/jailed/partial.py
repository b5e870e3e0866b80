"""Facts of a file of which only the ends are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from media.demux.animations import ANIMATIONS
from media.demux.discontinuities import has_clock
from media.demux.ends import Hole, only_ends
from media.demux.opening import container_name, open_untrusted, video_stream
from media.demux.promised import promised_seconds
from media.errors import CorruptHeader, HeaderElsewhere, NoFrames
from media.jailed.first_frame import readable_packets
from media.jailed.inspect import inspect
from media.limits import Limits
from media.types import MediaInfo

_ELSEWHERE: Final = "The header, or the first frame, lies outside the bytes that were sent. Send the whole file."
_LENGTH: Final = "The file's header does not state its length, and the bytes that were sent do not show it."
_SUSPICIOUS: Final = 5
"""Factor between two guesses at the length that makes a length without a header doubtful."""


def inspect_ends(path: Path, limits: Limits, target: str, *, fields: bool, hole: Hole) -> MediaInfo:
    """Collect the facts of a file with a hole; see `media.jailed.inspect.inspect`.

    Raises:
        HeaderElsewhere: the header, the first frame or the length may lie in the hole.
    """
    with only_ends(hole):
        try:
            info = inspect(path, limits, target, fields=fields)
        except (CorruptHeader, NoFrames) as error:
            raise HeaderElsewhere(_ELSEWHERE) from error
        info = replace(info, size_bytes=max(info.size_bytes, hole[1]))  # an upload in progress ends in the hole
        if not _states_length(path, limits, info, hole):
            raise HeaderElsewhere(_LENGTH)
        return info


def _states_length(path: Path, limits: Limits, info: MediaInfo, hole: Hole) -> bool:
    """Whether the known bytes give the length of the video."""
    with open_untrusted(path, limits) as container:
        stream = video_stream(container)
        if container_name(container) in ANIMATIONS:  # their length is the sum over all pictures
            return False
        if stream.frames or promised_seconds(container, stream, path):
            return True
        if info.duration_seconds is None:  # a browser's recording: the whole file would not show it either
            return not has_clock(container)
        # Without a statement, libav takes the times of the last packets found: those of the head, if the tail has none.
        times = [p.dts for p in readable_packets(container, stream) if p.dts is not None and (p.pos or 0) < hole[0]]
        if len(times) < 2 or stream.time_base is None:
            return False
        shown = float((times[-1] - times[0]) * stream.time_base)
        return info.duration_seconds * _SUSPICIOUS > shown * info.size_bytes / hole[0]
