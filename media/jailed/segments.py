"""Packets of a job's segments as one video stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from media.demux.timestamps import SHIFT_TAG, decoding_times, is_rounded, is_whole_milliseconds, rounding_warning
from media.errors import MediaError
from media.types import OutputSpec


def presentation_times(segment: Path) -> list[int]:
    """The pts of a segment's packets in coding order, in the segment's own time base."""
    with av.open(str(segment)) as container:
        return [p.pts for p in container.demux(video=0) if p.size and p.pts is not None]


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
    """Iterable of (decoding time in seconds, packet) over all segments.

    Args:
        segments: the files, in order.
        stream: the result's stream.
        spec: the output.
        depth: the largest reorder depth of the segments.
        last_duration: the source's duration of the frame at a pts, if known.
        warnings: receives a warning if the container rounds timestamps.

    Raises:
        MediaError: the segments were encoded differently, or overlap in time.
    """

    def __init__(
        self,
        segments: Sequence[Path],
        stream: VideoStream,
        spec: OutputSpec,
        depth: int,
        last_duration: Callable[[int], int | None],
        warnings: list[str],
    ) -> None:
        self._paths, self._stream, self._spec, self._depth = segments, stream, spec, depth
        self._last_duration, self._warnings = last_duration, warnings
        self._step = max(1, round(1 / (spec.frame_rate * spec.time_base)))
        self._may_round = is_rounded(spec.container, spec.time_base)

    def __iter__(self) -> Iterator[tuple[Fraction, Packet[VideoStream]]]:
        last_times: list[int] = []
        extradata: bytes | None = None
        for path in self._paths:
            segment = _read(path, self._spec.time_base)
            if extradata is not None and segment.extradata != extradata:
                raise MediaError(f"{path.name} and the segments before it have different encoder settings.")
            if last_times and min(segment.times) <= last_times[-1]:
                raise MediaError(f"{path.name} begins before the end of the previous segment.")
            extradata = segment.extradata
            self._warn_if_rounded(segment.times)
            self._stamp(segment, last_times)
            if path is self._paths[-1]:
                self._end(segment)
            for packet in segment.packets:
                yield (packet.dts or 0) * self._spec.time_base, packet
            last_times = sorted([*last_times, *segment.times])[-max(self._depth, 1) :]

    def _warn_if_rounded(self, times: list[int]) -> None:
        if self._may_round and not all(is_whole_milliseconds(pts, self._spec.time_base) for pts in times):
            self._warnings.append(rounding_warning(self._spec.container))
            self._may_round = False  # one warning is enough

    def _stamp(self, segment: _Segment, last_times: list[int]) -> None:
        times = decoding_times(segment.times, self._depth, last_times, self._step)
        for packet, dts in zip(segment.packets, times, strict=True):
            packet.dts, packet.duration, packet.stream = dts, self._step, self._stream

    def _end(self, segment: _Segment) -> None:
        """Give the last frame in display order its duration in the source."""
        last = max(segment.times)
        duration = self._last_duration(last) or self._step
        for packet in segment.packets:
            if packet.pts == last:
                packet.duration = duration
        final = segment.packets[-1]
        if self._spec.container in ("mp4", "mov") and final.pts is not None:
            # An MP4 track ends at the end of its last sample in coding order, by decoding timestamps.
            final.dts, final.duration = final.pts, last + duration - final.pts


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
        pts = packet.pts * packet.time_base / time_base + shift
        assert pts.denominator == 1, "a segment's time base is a multiple of the spec's"
        packet.time_base, packet.pts = time_base, int(pts)


def _shift(segment: InputContainer) -> int:
    return int(segment.metadata.get(SHIFT_TAG, "0"))
