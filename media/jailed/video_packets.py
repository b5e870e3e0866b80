"""Packets of the video, with facts from the headers."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final, cast

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from media.demux.discontinuities import has_clock
from media.demux.promised import promised_seconds
from media.demux.rate import DEFAULT_RATE
from media.demux.reading import Reading, has_sample_index, missing_samples
from media.ledger import Missing, TrackLedger

_SHORTER: Final = 1.0, 0.01
"""Seconds, and fraction of the promised duration, by which headers may be wrong."""


def typical_step(stream: VideoStream) -> int:
    """Typical distance of two frames, in units of the track's time base."""
    rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
    return max(1, round(1 / (rate * (stream.time_base or 1))))


def has_decoding_times(container: InputContainer) -> bool:
    """Whether the container holds no presentation times. libav guesses some."""
    return container.format.name in ("avi", "asf")


def display_lag(stream: VideoStream) -> int:
    """Frames between decoding and showing, in containers with decoding times only.

    Players show reordered H.264 and HEVC a frame after decoding. MPEG-4 in AVI is packed without lag.
    """
    context = stream.codec_context
    return int(context.codec.canonical_name in ("h264", "hevc") and context.reorder_depth > 0)


class VideoPackets:
    """Iterable of the video's packets up to the end of the file, and an empty packet at the end.

    Args:
        container: the open file.
        stream: its video.
        path: its path.
        track: receives what is promised and read, and whether the file breaks off.
        keyframe: a packet that was read already, and precedes the others.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        path: Path,
        track: TrackLedger,
        keyframe: Packet[VideoStream] | None,
    ) -> None:
        self._container, self._stream, self._path = container, stream, path
        self._track, self._keyframe = track, keyframe
        self._indexed = has_sample_index(container)
        self._begin: Fraction | None = None
        """Seconds of the first packet's start."""
        self._ends: dict[int, int] = {}
        """Index of a track → end of its last packet, in units of its time base."""
        self._first: int | None = None

    def __iter__(self) -> Iterator[Packet[VideoStream]]:
        if self._keyframe is not None:
            self._note(cast("Packet[Stream]", self._keyframe))
            yield self._keyframe
        # The other tracks tell how far the file reaches. MP4's index tells without them.
        observed: list[Stream] = [self._stream] if self._indexed or has_clock(self._container) else self._others()
        reading = Reading(self._container, observed)
        for packet in reading:
            self._note(packet)
            if packet.stream.index == self._stream.index:
                self._track.jumps = reading.discontinuities.count(self._stream)
                if packet.dts is None and not packet.size:
                    self._judge(failed=reading.failed)
                yield cast("Packet[VideoStream]", packet)

    def _others(self) -> list[Stream]:
        streams = (s for s in self._container.streams if s.type in ("audio", "subtitle"))
        avi = self._container.format.name == "avi"
        return [self._stream, *(() if avi else streams)]  # AVI's header tells the duration of each track

    def _note(self, packet: Packet[Stream]) -> None:
        if packet.size and packet.stream.index == self._stream.index:
            self._track.read.packets += 1
            self._first = packet.dts if self._first is None else self._first
        time = packet.dts if packet.pts is None else packet.pts
        if time is None:
            return
        index, end = packet.stream.index, time + (packet.duration or 0)
        if end > self._ends.get(index, 0):
            self._ends[index] = end
        if self._begin is None:
            self._begin = time * packet.time_base

    def _judge(self, *, failed: bool) -> None:
        """Compare what was read with what is promised, at the end of the file."""
        track = self._track
        track.promised.seconds = promised_seconds(self._container, self._stream, self._path)
        streams = self._container.streams
        end = max((units * (streams[index].time_base or 0) for index, units in self._ends.items()), default=Fraction(0))
        track.read.seconds = float(end - (self._begin or 0))
        if self._indexed:
            promised = 0 if self._first is None else missing_samples(self._stream, after=self._first - 1)
            track.promised.packets = promised
            track.promised.seconds = float((self._stream.duration or 0) * (self._stream.time_base or 0))
            track.lose(Missing.CUT_OFF, promised - track.read.packets)
        else:
            absolute, relative = _SHORTER
            missing = track.promised.seconds - float(end)
            track.breaks_off |= missing > max(absolute, relative * track.promised.seconds)
        track.breaks_off |= failed or track.lost(Missing.CUT_OFF) > 0
