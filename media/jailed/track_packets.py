"""Packets of the source's other tracks, in sync with the picture although timestamps start over or jump."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from media.demux.monotonic import MonotonicTimestamps, SubtitleTimestamps
from media.demux.opening import video_stream
from media.demux.reading import Reading, has_sample_index
from media.ledger import Ledger, Missing, TrackLedger
from media.tracks.track import Track


def track_packets(
    source: InputContainer, tracks: dict[int, Track], ledger: Ledger
) -> Iterator[tuple[Fraction, Packet[Stream] | None]]:
    """Yield (position in the source in seconds, packet of the result).

    None instead of a packet is yielded after each packet of the source: proof of progress, since a track can be empty
    for long.

    Args:
        tracks: index in the source → track.
        ledger: receives what was read and dropped of each track.
    """
    if not tracks:
        return
    timestamps = _Timestamps(source, [source.streams[index] for index in tracks])
    entries = {index: ledger.track(index, source.streams[index].type) for index in tracks}
    now = Fraction(0)
    for packet in timestamps.monotonic(_noted(Reading(source, timestamps.streams), entries)):
        if packet.dts is not None:
            now = max(now, packet.dts * packet.time_base)
        for index, out in _outputs(tracks, packet, now):
            entries[index].written.packets += 1
            yield now, out
        yield now, None
    timestamps.enter(entries)
    for index, track in entries.items():
        track.lose(Missing.UNDECODABLE, tracks[index].undecodable)
        if has_sample_index(source):
            track.promised.packets = len(source.streams[index].index_entries)
            track.lose(Missing.CUT_OFF, track.promised.packets - track.read.packets)


def _noted(packets: Iterable[Packet[Stream]], entries: dict[int, TrackLedger]) -> Iterator[Packet[Stream]]:
    """Yield the packets, and enter what was read of each track."""
    begins: dict[int, Fraction] = {}
    for packet in packets:
        index, time = packet.stream.index, packet.dts if packet.pts is None else packet.pts
        if index in entries and packet.size:
            read = entries[index].read
            read.packets += 1
            if time is not None:
                end = (time + (packet.duration or 0)) * packet.time_base
                begins.setdefault(index, time * packet.time_base)
                read.seconds = max(read.seconds, float(end - begins[index]))
        yield packet


def _outputs(tracks: dict[int, Track], packet: Packet[Stream], now: Fraction) -> Iterator[tuple[int, Packet[Stream]]]:
    """Yield (index of the track in the source, packet of the result)."""
    for index, track in tracks.items():
        for out in track.until(now):
            yield index, out
    index = packet.stream.index
    if index in tracks:
        for out in tracks[index].packets(packet):
            yield index, out


class _Timestamps:
    """Monotonic timestamps for all tracks. Subtitles follow the sound, or the picture if there is no sound."""

    def __init__(self, source: InputContainer, streams: list[Stream]) -> None:
        leading = [stream for stream in streams if stream.type == "audio"] or [video_stream(source)]
        following = [stream for stream in streams if stream not in leading]
        self.streams = [*leading, *following]
        """The streams to demux."""
        self._leading = {stream.index: MonotonicTimestamps() for stream in leading}
        self._following = {stream.index: SubtitleTimestamps() for stream in following}

    def monotonic(self, packets: Iterable[Packet[Stream]]) -> Iterator[Packet[Stream]]:
        """Yield the packets with monotonic timestamps, without those that repeat a timestamp."""
        shift = Fraction(0)
        for packet in packets:
            index = packet.stream.index
            if packet.size and index in self._leading:
                if not self._leading[index].admit(packet):
                    continue
                shift = self._leading[index].shift
            elif packet.size:
                self._following[index].follow(packet, shift)
            yield packet

    def enter(self, entries: dict[int, TrackLedger]) -> None:
        """Enter dropped packets and restarts of the leading tracks. `media.reader` reports on the picture."""
        for index, timestamps in self._leading.items():
            if index in entries:
                entries[index].lose(Missing.REPEATED_TIME, timestamps.dropped)
                entries[index].restarts += bool(timestamps.shift)
