"""Times by a broadcast's clock: here they begin at zero, and where it was set what follows comes right behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from media.demux.container import video_stream
from media.demux.continuity import move

S = TypeVar("S", bound=Stream)

_CLOCKED: Final = ("mpegts", "mpeg")
"""Containers whose times are a clock's, which may be set, and in which MPEG asks for a time every 0.7 seconds.
Elsewhere a long gap is a picture that is shown for long."""
_JUMP: Final = 60 * 90_000
"""What goes ahead by more than a minute jumps; the containers count in 1/90000 seconds."""


def may_jump(container: InputContainer) -> bool:
    """Whether times that jump ahead mean nothing in a file of that kind."""
    return container.format.name in _CLOCKED


@dataclass
class _Count:
    """Times that follow from one another."""

    skipped: int = 0
    """What was taken out of the times up to here."""
    jumps: int = 0
    end: int = 0
    """Where the packet that was read last ends."""


@dataclass
class _Place:
    """Where a stream is."""

    last: int = 0
    end: int = 0
    count: _Count = field(default_factory=_Count)


class Jumps:
    """A file's packets without jumps ahead, and without what the clock was at when it began.

    A stream jumps when its times do and no other stream is where they are then: what is missing of one stream alone
    (a film's second language, a picture that was not received) is a gap, and stays. The other streams follow the first
    one that jumps, by the same amount, so that all stay as they were to each other. All streams are looked at for
    that, whichever are asked for, so that every reader of a file finds the same jumps.
    """

    def __init__(self, container: InputContainer) -> None:
        self._container = container
        self._places: dict[int, _Place] = {}
        self._latest: _Place | None = None
        self._begin = 0

    def packets(self, streams: Iterable[S]) -> Iterator[Packet[S]]:
        """What `container.demux` gives for some streams. Raises what that raises."""
        wanted = list(streams)
        if not may_jump(self._container):
            yield from cast("Iterator[Packet[S]]", self._container.demux(wanted))
            return
        self._begin = _begin(self._container)
        indices = {stream.index for stream in wanted}
        watched = [s for s in self._container.streams if s.type in ("video", "audio", "subtitle")]
        for packet in self._container.demux(watched):
            self.take_out(packet.stream.index, packet)
            if packet.stream.index in indices:
                yield cast("Packet[S]", packet)

    def before(self, stream: Stream) -> int:
        """How many jumps were taken out of a stream's times so far."""
        return self._places.get(stream.index, _Place()).count.jumps

    def take_out(self, index: int, packet: Packet[Stream]) -> None:
        """Move the next packet of the file, which is of the stream `index`, by what was jumped before it."""
        time = packet.pts if packet.dts is None else packet.dts
        if time is None:
            return
        place = self._places.get(index)
        if place is not None and abs(time - place.last) <= _JUMP:
            count = place.count
        else:
            count = self._count_beside(time) or (self._first_count(time) if place is None else _next_count(time, place))
        count.end = time + max(packet.duration or 0, 1)
        self._latest = self._places[index] = _Place(time, count.end, count)
        move(packet, -count.skipped)

    def _count_beside(self, time: int) -> _Count | None:
        """The count of another stream that is near."""
        others = [other for other in self._places.values() if abs(time - other.last) <= _JUMP]
        return min(others, key=lambda other: abs(time - other.last)).count if others else None

    def _first_count(self, time: int) -> _Count:
        """The count of a stream that begins far from all others: at zero, or where the file is by now."""
        if self._latest is None:
            return _Count(self._begin if abs(time - self._begin) <= _JUMP else time)
        now, ahead = self._latest.end - self._latest.count.skipped, time > self._latest.last
        return _Count(time - now, self._latest.count.jumps + ahead)


def _next_count(time: int, place: _Place) -> _Count:
    """The count of a stream whose time does not follow from its place."""
    count = place.count
    if time < place.last:  # what begins anew is put behind later, stream by stream
        return _Count(count.skipped, count.jumps)
    return _Count(count.skipped + time - max(place.end, count.end), count.jumps + 1)


def _begin(container: InputContainer) -> int:
    """When the video's programme begins: other programmes of the same recording may have other clocks."""
    starts = [s.start_time for s in container.streams if s.type in ("video", "audio") and s.start_time is not None]
    video = video_stream(container).start_time
    return 0 if video is None else min(start for start in starts if abs(start - video) <= _JUMP)
