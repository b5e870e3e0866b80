"""Monotonic timestamps for tracks whose timestamps repeat, go back or start over.

Recordings of broadcasts and concatenated files have such tracks. Muxers refuse them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from av.packet import Packet
from av.stream import Stream

RESTART_SECONDS: Final = 1
"""A larger step back is a restart: the packets belong after the earlier packets."""
_COARSE: Final = Fraction(1, 1000)
"""A time base of this or more, such as Matroska's, gives short packets equal timestamps."""


def is_restart(time: int, last: int, time_base: Fraction) -> bool:
    """Whether the timestamps start over at `time`, which is not above `last`."""
    return (last - time) * time_base > RESTART_SECONDS


@dataclass
class MonotonicTimestamps:
    """Filter that makes the dts of an audio or video track increase.

    After a restart, each track continues at its own end. The result is exact for a recording that was cut into parts.
    In concatenated files, picture and sound drift by the difference of their lengths in each file.
    """

    dropped: int = 0
    """Packets that repeated a timestamp, or went back by less than a restart."""
    shift: Fraction = Fraction(0)
    """Seconds added to the timestamps since the last restart."""
    _last: int | None = None
    _next: int = 0

    def admit(self, packet: Packet[Stream]) -> bool:
        """Shift the packet's timestamps after a restart. False: drop the packet."""
        if packet.dts is None:
            return True
        shift = round(self.shift / packet.time_base)
        dts = packet.dts + shift
        if self._last is not None and dts <= self._last:
            if is_restart(dts, self._last, packet.time_base):
                shift += self._next - dts
                self.shift = shift * packet.time_base
            elif dts < self._last or packet.time_base < _COARSE:
                self.dropped += 1
                return False
        shift_packet(packet, shift)
        self._last = packet.dts
        self._next = packet.dts + max(packet.duration or 0, 1)
        return True


@dataclass
class SubtitleTimestamps:
    """Filter that keeps a subtitle track in sync with its leading track.

    Subtitle packets are too sparse to detect a restart by their own timestamps.
    """

    _last: int | None = None

    def follow(self, packet: Packet[Stream], shift: Fraction) -> None:
        """Add the leading track's `shift` in seconds; then raise the dts to the previous one if necessary."""
        shift_packet(packet, round(shift / packet.time_base))
        if packet.dts is not None:
            if self._last is not None and packet.dts < self._last:
                shift_packet(packet, self._last - packet.dts)
            self._last = packet.dts


def shift_packet(packet: Packet[Stream], by: int) -> None:
    """Add `by` units of the packet's time base to pts and dts."""
    if packet.pts is not None:
        packet.pts += by
    if packet.dts is not None:
        packet.dts += by
