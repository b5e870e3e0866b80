"""Discontinuities of MPEG transport and program streams: their timestamps are readings of a broadcast's clock.

Here timestamps begin at zero. Where the clock jumps ahead, the gap is removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from media.demux.monotonic import shift_packet
from media.demux.opening import video_stream

S = TypeVar("S", bound=Stream)

_CLOCKED: Final = ("mpegts", "mpeg")
"""Containers with a clock's timestamps, which MPEG requires every 0.7 seconds.
In other containers, a long gap is a picture with a long duration."""
CLOCK_RATE: Final = 90_000
"""Units a second of both containers."""
_JUMP: Final = 60 * CLOCK_RATE
"""A gap of more than a minute is a discontinuity."""


def has_clock(container: InputContainer) -> bool:
    """Whether a clock made the container's timestamps. Gaps can then be meaningless."""
    return container.format.name in _CLOCKED


@dataclass
class _Timeline:
    """Consecutive timestamps: the readings of one clock between two discontinuities."""

    offset: int = 0
    """Amount to subtract from the timestamps."""
    discontinuities: int = 0
    """Number of discontinuities before this timeline."""
    end: int = 0
    """End of the latest packet, before subtraction."""


@dataclass
class _Position:
    """Latest packet of one stream."""

    last: int = 0
    end: int = 0
    timeline: _Timeline = field(default_factory=_Timeline)


class Discontinuities:
    """Removes discontinuities and the clock's start value from a file's packets.

    A stream has a discontinuity if its timestamps jump and no other stream is near the new timestamp. A gap in one
    stream alone (lost pictures, a second language) stays. The other streams follow the first stream by the same amount:
    all streams stay in sync. All streams are observed, even if only some are requested: every reader of a file finds
    the same discontinuities.
    """

    def __init__(self, container: InputContainer) -> None:
        self._container = container
        self._positions: dict[int, _Position] = {}
        self._latest: _Position | None = None
        self._start = 0

    def packets(self, streams: Iterable[S]) -> Iterator[Packet[S]]:
        """Demux some streams, as `container.demux` does. Raises libav's errors."""
        wanted = list(streams)
        if not has_clock(self._container):
            yield from cast("Iterator[Packet[S]]", self._container.demux(wanted))
            return
        self._start = start_time(self._container)
        indices = {stream.index for stream in wanted}
        observed = [s for s in self._container.streams if s.type in ("video", "audio", "subtitle")]
        for packet in self._container.demux(observed):
            self.correct(packet.stream.index, packet)
            if packet.stream.index in indices:
                yield cast("Packet[S]", packet)

    def count(self, stream: Stream) -> int:
        """Number of discontinuities removed from a stream so far."""
        return self._positions.get(stream.index, _Position()).timeline.discontinuities

    def correct(self, index: int, packet: Packet[Stream]) -> None:
        """Shift the file's next packet, which belongs to stream `index`."""
        time = packet.pts if packet.dts is None else packet.dts
        if time is None:
            return
        timeline = self._timeline(self._positions.get(index), time)
        timeline.end = time + max(packet.duration or 0, 1)
        self._latest = self._positions[index] = _Position(time, timeline.end, timeline)
        shift_packet(packet, -timeline.offset)

    def _timeline(self, position: _Position | None, time: int) -> _Timeline:
        if position is not None and abs(time - position.last) <= _JUMP:
            return position.timeline
        nearby = self._nearby_timeline(time)
        if nearby is not None:
            return nearby
        return self._first_timeline(time) if position is None else _next_timeline(position, time)

    def _nearby_timeline(self, time: int) -> _Timeline | None:
        """Timeline of the stream that is nearest to `time`, within a jump."""
        others = [other for other in self._positions.values() if abs(time - other.last) <= _JUMP]
        return min(others, key=lambda other: abs(time - other.last)).timeline if others else None

    def _first_timeline(self, time: int) -> _Timeline:
        """Timeline of a stream that begins far from all others: at zero, or at the file's current position."""
        if self._latest is None:
            return _Timeline(self._start if abs(time - self._start) <= _JUMP else time)
        now, ahead = self._latest.end - self._latest.timeline.offset, time > self._latest.last
        return _Timeline(time - now, self._latest.timeline.discontinuities + ahead)


def _next_timeline(position: _Position, time: int) -> _Timeline:
    """Timeline of a stream after a discontinuity."""
    timeline = position.timeline
    if time < position.last:  # a restart: `media.demux.monotonic` appends the packets, stream by stream
        return _Timeline(timeline.offset, timeline.discontinuities)
    gap = time - max(position.end, timeline.end)
    return _Timeline(timeline.offset + gap, timeline.discontinuities + 1)


def start_time(container: InputContainer) -> int:
    """Start time of the video's programme. Other programmes of the same recording can have other clocks."""
    starts = [s.start_time for s in container.streams if s.type in ("video", "audio") and s.start_time is not None]
    video = video_stream(container).start_time
    return 0 if video is None else min(start for start in starts if abs(start - video) <= _JUMP)
