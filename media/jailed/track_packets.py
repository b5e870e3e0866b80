"""Packets of the source's other tracks, in sync with the picture although timestamps start over or jump."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from media.demux.discontinuities import Discontinuities
from media.demux.monotonic import MonotonicTimestamps, SubtitleTimestamps
from media.demux.opening import video_stream
from media.ledger import Ledger, Missing
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
    now = Fraction(0)
    with suppress(av.error.FFmpegError):
        for packet in timestamps.monotonic(_demuxed(source, timestamps.streams)):
            if packet.dts is not None:
                now = max(now, packet.dts * packet.time_base)
            for out in _outputs(tracks, packet, now):
                yield now, out
            yield now, None
    timestamps.enter(tracks, ledger)


def _outputs(tracks: dict[int, Track], packet: Packet[Stream], now: Fraction) -> Iterator[Packet[Stream]]:
    for track in tracks.values():
        yield from track.until(now)
    if packet.stream.index in tracks:
        yield from tracks[packet.stream.index].packets(packet)


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

    def enter(self, tracks: dict[int, Track], ledger: Ledger) -> None:
        """Enter dropped packets and restarts of the leading tracks. `media.reader` reports on the picture."""
        for index, timestamps in self._leading.items():
            if index in tracks:
                track = ledger.track(index, "audio")
                track.lose(Missing.REPEATED_TIME, timestamps.dropped)
                track.restarts += bool(timestamps.shift)


def _demuxed(source: InputContainer, streams: list[Stream]) -> Iterator[Packet[Stream]]:
    """Yield the streams' packets up to the first error, and an empty packet at the end of each stream."""
    try:
        yield from Discontinuities(source).packets(streams)
    except av.error.FFmpegError:
        for stream in streams:
            flush: Packet[Stream] = Packet()
            flush.stream = stream
            yield flush
