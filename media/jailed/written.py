"""The muxer's input, track by track."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.packet import Packet
from av.stream import Stream


@dataclass
class WrittenTrack:
    """Packets of one track of the result. Times are in seconds."""

    packets: int = 0
    begin: Fraction | None = None
    end: Fraction = Fraction(0)

    def add(self, packet: Packet[Any]) -> None:
        """Add a packet before it is muxed."""
        self.packets += 1
        if packet.pts is not None:
            time = packet.pts * packet.time_base
            end = time + (packet.duration or 0) * packet.time_base
            self.end = end if self.begin is None else max(self.end, end)
            self.begin = time if self.begin is None else min(self.begin, time)

    @property
    def seconds(self) -> Fraction:
        """Time from the first packet's start to the last packet's end."""
        return self.end - (self.begin or 0)


class Written:
    """All tracks that received packets."""

    def __init__(self) -> None:
        self._tracks: dict[int, WrittenTrack] = {}

    def add(self, packet: Packet[Any]) -> None:
        """Add a packet before it is muxed."""
        self._tracks.setdefault(packet.stream.index, WrittenTrack()).add(packet)

    def __getitem__(self, stream: Stream) -> WrittenTrack:
        return self._tracks.get(stream.index) or WrittenTrack()
