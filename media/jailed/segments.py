"""Packets of a job's segments as one video stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from media.demux.timestamps import SHIFT_TAG, decoding_times, is_rounded, is_whole_milliseconds, rounding_warning
from media.errors import MediaError
from media.jailed.timing import End, Timing
from media.types import OutputSpec


def segment_times(segment: Path, time_base: Fraction) -> list[int]:
    """The pts of a segment's packets in coding order, in units of the spec's time base."""
    with av.open(str(segment)) as container:
        shift, unit = _shift(container), container.streams.video[0].time_base or time_base
        return [
            _rescaled(packet.pts, unit, time_base, shift)
            for packet in container.demux(video=0)
            if packet.size and packet.pts is not None
        ]


def timestamp_shift(segment: Path) -> int:
    """Amount to add to a segment's timestamps, in units of the spec's time base."""
    with av.open(str(segment)) as container:
        return _shift(container)


@dataclass(frozen=True)
class _Segment:
    packets: list[Packet[VideoStream]]
    times: list[int]
    """Their pts, in the spec's time base."""
    extradata: bytes | None
    """The encoder's headers."""


class SegmentPackets:
    """Iterable of (position in seconds, packet) over all segments.

    Args:
        segments: the files, in order.
        stream: the result's stream.
        spec: the output.
        timing: the times of all segments.
        end: how the last frame ends.
        warnings: receives a warning if the container rounds timestamps.

    Raises:
        MediaError: the segments were encoded differently, or overlap in time.
    """

    def __init__(
        self,
        segments: Sequence[Path],
        stream: VideoStream,
        spec: OutputSpec,
        timing: Timing,
        end: End,
        warnings: list[str],
    ) -> None:
        self._paths, self._stream, self._spec, self._timing = segments, stream, spec, timing
        self._end, self._warnings = end, warnings
        self._may_round = is_rounded(spec.container, spec.time_base)

    def __iter__(self) -> Iterator[tuple[Fraction, Packet[VideoStream]]]:
        before = self._timing.lead
        ahead = self._timing.starts[0] - min(before, default=self._timing.starts[0])
        extradata: bytes | None = None
        ends = [*self._timing.starts[1:], self._timing.last + 1]
        for path, end in zip(self._paths, ends, strict=True):
            segment = _read(path, self._spec.time_base)
            if extradata is not None and segment.extradata != extradata:
                raise MediaError(f"{path.name} and the segments before it have different encoder settings.")
            if max(segment.times) >= end:
                raise MediaError(f"The segment after {path.name} begins before the end of {path.name}.")
            extradata = segment.extradata
            self._warn_if_rounded(segment.times)
            self._stamp(segment, before, end)
            for packet in segment.packets:
                yield (packet.dts or 0) * packet.time_base + ahead * self._spec.time_base, packet
            before = [*before, *sorted(segment.times)][-max(self._timing.depth, 1) :]

    def _warn_if_rounded(self, times: list[int]) -> None:
        if self._may_round and not all(is_whole_milliseconds(pts, self._spec.time_base) for pts in times):
            self._warnings.append(rounding_warning(self._spec.container))
            self._may_round = False  # one warning is enough

    def _stamp(self, segment: _Segment, before: list[int], end: int) -> None:
        """Set decoding times and durations. The segment's last frame is shown until `end`."""
        ordered = sorted(segment.times)
        durations = {time: after - time for time, after in pairwise([*ordered, end])}
        times = decoding_times(segment.times, self._timing.depth, before)
        finer, unit = self._end.finer, self._spec.time_base / self._end.finer
        for packet, pts, dts in zip(segment.packets, segment.times, times, strict=True):
            packet.pts, packet.dts, packet.duration = pts * finer, dts * finer, durations[pts] * finer
            packet.time_base, packet.stream = unit, self._stream
            if pts == self._timing.last:
                packet.duration = self._end.last_duration
        if ordered[-1] == self._timing.last:
            # The last distance between decoding times is the last packet's duration.
            segment.packets[-1].duration = self._end.last_duration


def _read(path: Path, time_base: Fraction) -> _Segment:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size]
        shift = _shift(container)
        for packet in packets:
            _rescale(packet, time_base, shift)
        times = [p.pts for p in packets if p.pts is not None]
        return _Segment(packets, times, stream.codec_context.extradata)


def _rescale(packet: Packet[VideoStream], time_base: Fraction, shift: int) -> None:
    if packet.pts is not None:
        packet.pts, packet.time_base = _rescaled(packet.pts, packet.time_base, time_base, shift), time_base


def _rescaled(pts: int, unit: Fraction, time_base: Fraction, shift: int) -> int:
    scaled = pts * unit / time_base + shift
    assert scaled.denominator == 1, "a segment's time base is a multiple of the spec's"
    return int(scaled)


def _shift(segment: InputContainer) -> int:
    return int(segment.metadata.get(SHIFT_TAG, "0"))
