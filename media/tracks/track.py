"""A track on its way from the source to the result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from av.packet import Packet
from av.stream import Stream


@dataclass(frozen=True)
class Track:
    """A copied track: takes packets of the source, and gives packets of `target`. Base of the converted tracks."""

    target: Stream

    @property
    def loses(self) -> bool:
        """Whether the result lacks something of the track that a person would miss."""
        return False

    @property
    def priming(self) -> Fraction:
        """Seconds at the beginning that a codec adds and players are to skip. Known after the first packet."""
        return Fraction(0)

    @property
    def undecodable(self) -> int:
        """Packets of the source that a conversion could not decode."""
        return 0

    def packets(self, packet: Packet[Stream]) -> Iterator[Packet[Stream]]:
        """Packets that result from one packet. The empty packet at the end flushes the track."""
        if packet.size:
            if packet.dts is None:
                packet.dts = packet.pts
            packet.stream = self.target
            yield packet

    def until(self, time: Fraction) -> Iterator[Packet[Stream]]:
        """Delayed packets that are complete once the file has been read up to `time` (seconds)."""
        yield from ()
