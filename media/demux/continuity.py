"""Times that repeat, go back or begin anew, as in recordings of broadcasts and files put one behind the other."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from av.packet import Packet
from av.stream import Stream

RESTART_SECONDS: Final = 1
"""Times that go back by more than this begin anew, and what follows belongs behind what came before."""
_COARSE: Final = Fraction(1, 1000)
"""Units of this or more, as Matroska's, give short packets equal times."""


def begins_anew(time: int, last: int, time_base: Fraction) -> bool:
    """Whether a time that is not above the one before it starts another count."""
    return (last - time) * time_base > RESTART_SECONDS


@dataclass
class RisingTimes:
    """The packets of a track of sound (or the picture), as muxers want them: each behind the one before it.

    Where times begin anew, picture and sound each go on from their own end: exact where a recording was cut into
    parts, and where files were joined off by what the sound of each is longer than its picture.
    """

    dropped: int = 0
    """Packets that repeated a time or went back a little."""
    shift: Fraction = Fraction(0)
    """Seconds by which the times are moved, since they began anew."""
    _last: int | None = None
    _next: int = 0

    def admits(self, packet: Packet[Stream]) -> bool:
        """Whether to keep the packet, whose times are moved if those of the track have begun anew."""
        if packet.dts is None:
            return True
        moved_by = round(self.shift / packet.time_base)
        dts = packet.dts + moved_by
        if self._last is not None and dts <= self._last:
            if begins_anew(dts, self._last, packet.time_base):
                moved_by += self._next - dts
                self.shift = moved_by * packet.time_base
            elif dts < self._last or packet.time_base < _COARSE:
                self.dropped += 1
                return False
        move(packet, moved_by)
        self._last = packet.dts
        self._next = packet.dts + max(packet.duration or 0, 1)
        return True


@dataclass
class FollowingTimes:
    """The packets of a track of subtitles, which are too sparse to tell by their own times where those begin anew."""

    _last: int | None = None

    def take(self, packet: Packet[Stream], shift: Fraction) -> None:
        """Move the packet by the seconds by which the track that leads it is moved; never before the one before it."""
        move(packet, round(shift / packet.time_base))
        if packet.dts is not None:
            if self._last is not None and packet.dts < self._last:
                move(packet, self._last - packet.dts)
            self._last = packet.dts


def move(packet: Packet[Stream], by: int) -> None:
    """Add so many of its units to a packet's times."""
    if packet.pts is not None:
        packet.pts += by
    if packet.dts is not None:
        packet.dts += by
