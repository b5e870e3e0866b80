"""Joining segments with the source's other tracks, in this process; `media.assemble` runs it apart."""

from __future__ import annotations

import errno
import heapq
import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TypeAlias

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from media.color.hdr import boxes, header_with, mastering_display
from media.demux.container import open_untrusted, video_stream
from media.demux.continuity import FollowingTimes, RisingTimes
from media.demux.discontinuities import Jumps
from media.demux.last_frame import shown_for
from media.demux.timing import ROUNDED, decoding_times, is_rounded, movie_timescale, reorder_depth
from media.encode.segment import SHIFT_TAG
from media.errors import MediaError
from media.limits import Limits
from media.spec import OutputSpec
from media.tracks.copy import MUXERS, Track, add_attachments, add_covers, add_track, goes_along, is_cover
from media.tracks.tags import kept

AnyPacket: TypeAlias = "Packet[VideoStream] | Packet[Stream]"


class Joined(Iterator[bool]):
    """The work of joining, a step an iteration, so that whoever waits sees progress; `warnings` at the end.

    A step is True where the next one is the last, which reads and writes all of the result at once.
    """

    def __init__(self, steps: Iterator[bool], warnings: list[str]) -> None:
        self._steps, self.warnings = steps, warnings

    def __next__(self) -> bool:
        return next(self._steps)


def join(segments: Sequence[Path], source: Path, out: Path, spec: OutputSpec, limits: Limits) -> Joined:
    """See `media.assemble.assemble`."""
    warnings: list[str] = []
    return Joined(_join(segments, source, out, spec, limits, warnings), warnings)


def _join(
    segments: Sequence[Path], source: Path, out: Path, spec: OutputSpec, limits: Limits, warnings: list[str]
) -> Iterator[bool]:
    with ExitStack() as stack:
        original = stack.enter_context(open_untrusted(source, limits))
        first = stack.enter_context(_described(segments[0], spec))
        target = stack.enter_context(_open_output(out, spec, original, _starts_before_zero(segments[0])))
        try:
            depth = 0
            for path in segments:
                depth = max(depth, reorder_depth(_times(path)))
                yield False
            video = _add_video(target, first.streams.video[0], video_stream(original), spec)
            others = dict(_add_others(target, original, spec.container, warnings))
            add_covers(target, spec.container, original)
            target.metadata.update(kept(original.metadata))
            target.set_chapters(original.chapters())
            packets = heapq.merge(
                _video_packets(segments, video, spec, depth, partial(shown_for, source, limits=limits), warnings),
                _other_packets(original, others, warnings),
                key=lambda item: item[0],
            )
            said, pause = time.monotonic(), min(1.0, limits.max_decoder_seconds / 4)
            for _, packet in packets:
                if packet is not None:
                    target.mux_one(packet)
                if time.monotonic() - said > pause:
                    yield False
                    said = time.monotonic()
            yield True
            target.close()
        except (av.error.FFmpegError, ValueError) as e:
            if isinstance(e, OSError) and e.errno == errno.ENOSPC:
                raise OSError(errno.ENOSPC, "the disk is full") from e
            raise MediaError(f"the parts can't be put together as {spec.container}: {e}") from e


def _open_output(out: Path, spec: OutputSpec, original: InputContainer, before_zero: bool) -> OutputContainer:
    """The result's file; `before_zero`: its first frame's time is negative."""
    rates = [s.codec_context.sample_rate for s in original.streams.audio if s.codec_context]
    options = {"fflags": "+bitexact"}
    if spec.container in ("mp4", "mov"):
        # libav writes either any tag, or those that iTunes knows and covers.
        tags = "" if spec.container == "mp4" and any(map(is_cover, original.streams)) else "+use_metadata_tags"
        if before_zero and "mp4" not in original.format.name:  # where nothing says that what is there is not shown
            options["avoid_negative_ts"] = "make_zero"
        options |= {
            "movflags": f"+faststart{tags}",
            "video_track_timescale": str(spec.time_base.denominator),
            "movie_timescale": str(movie_timescale(spec.time_base.denominator, *(r for r in rates if r))),
        }
    elif not before_zero:
        # A codec's lead-in may be before zero; libav would shift all times for it.
        options["avoid_negative_ts"] = "disabled"
    return av.open(str(out), "w", format=MUXERS[spec.container], container_options=options)


def _described(segment: Path, spec: OutputSpec) -> InputContainer:
    """A file whose video stream is described as the result's is to be, HDR10's metadata included."""
    extra = boxes(mastering_display(spec.mastering_display), spec.content_light)
    opened = av.open(io.BytesIO(header_with(segment, extra)) if extra else str(segment), "r", format="mp4")
    assert isinstance(opened, InputContainer)
    return opened


def _add_video(target: OutputContainer, segment: VideoStream, original: VideoStream, spec: OutputSpec) -> VideoStream:
    stream = target.add_stream_from_template(segment, opaque=True)
    stream.time_base = spec.time_base
    stream.codec_context.sample_aspect_ratio = spec.sample_aspect_ratio  # not every codec's headers have it
    stream.metadata.update(kept(original.metadata))
    stream.disposition = original.disposition
    if spec.display_matrix is not None:
        stream.set_display_matrix(spec.display_matrix)
    return stream


def _add_others(
    target: OutputContainer, original: InputContainer, kind: str, warnings: list[str]
) -> Iterator[tuple[int, Track]]:
    main = video_stream(original).index
    for stream in original.streams:
        if stream.index != main and goes_along(stream) and (track := add_track(target, kind, stream, warnings)):
            yield stream.index, track
    add_attachments(target, kind, original.streams.attachments, warnings)


def _video_packets(
    segments: Sequence[Path],
    stream: VideoStream,
    spec: OutputSpec,
    depth: int,
    lasts: Callable[[int], int | None],
    warnings: list[str],
) -> Iterator[tuple[Fraction, AnyPacket]]:
    """Packets of all segments, of the largest reorder depth among them.

    `lasts` says how long the source's frame of a time is shown, if it knows.
    """
    exact = not is_rounded(spec.container, spec.time_base)
    step = max(1, round(1 / (spec.frame_rate * spec.time_base)))
    before: list[int] = []
    extradata: bytes | None = None
    for path in segments:
        with av.open(str(path)) as container:
            part = container.streams.video[0]
            if extradata is not None and part.codec_context.extradata != extradata:
                raise MediaError(f"{path.name} was encoded with other settings than the segments before it")
            extradata = part.codec_context.extradata
            packets, shift = [p for p in container.demux(part) if p.size], _shift(container)
            for packet in packets:
                _rescale(packet, spec.time_base, shift)
            times = [p.pts for p in packets if p.pts is not None]
            if not exact and any((1000 * pts * spec.time_base).denominator != 1 for pts in times):
                warnings.append(ROUNDED.format(spec.container))
                exact = True  # said once
            if before and min(times) <= before[-1]:
                raise MediaError(f"{path.name} begins before the segment before it ends")
            for packet, dts in zip(packets, decoding_times(times, depth, before, step), strict=True):
                packet.dts, packet.duration, packet.stream = dts, step, stream
            if path is segments[-1]:
                _end(packets, max(times), lasts(max(times)) or step, spec)
            for packet in packets:
                yield (packet.dts or 0) * spec.time_base, packet
            before = sorted([*before, *times])[-max(depth, 1) :]


def _end(packets: list[Packet[VideoStream]], last: int, duration: int, spec: OutputSpec) -> None:
    """Let the frame of time `last` be shown for `duration`, in the last packets of all."""
    for packet in packets:
        if packet.pts == last:
            packet.duration = duration
    final = packets[-1]
    if spec.container in ("mp4", "mov") and final.pts is not None:
        # There a track ends where its last sample in coding order does, by decoding times.
        final.dts, final.duration = final.pts, last + duration - final.pts


def _rescale(packet: Packet[VideoStream], unit: Fraction, shift: int) -> None:
    if packet.pts is not None:
        pts = packet.pts * packet.time_base / unit + shift
        assert pts.denominator == 1, "a segment's unit divides the spec's"
        packet.time_base, packet.pts = unit, int(pts)


def _shift(segment: InputContainer) -> int:
    """What is to be added to the times of a segment, in the spec's unit."""
    return int(segment.metadata.get(SHIFT_TAG, "0"))


def _starts_before_zero(segment: Path) -> bool:
    with av.open(str(segment)) as container:
        return _shift(container) < 0


def _times(path: Path) -> list[int]:
    """In the segment's own count."""
    with av.open(str(path)) as container:
        return [p.pts for p in container.demux(video=0) if p.size and p.pts is not None]


def _other_packets(
    original: InputContainer, tracks: dict[int, Track], warnings: list[str]
) -> Iterator[tuple[Fraction, AnyPacket | None]]:
    """What becomes of the tracks that go along, and None for each packet read: there may be nothing for long."""
    if not tracks:
        return
    now = shift = Fraction(0)
    streams = [original.streams[index] for index in tracks]
    # Subtitles begin anew with the sound that they go with, or with the picture.
    leads = [stream for stream in streams if stream.type == "audio"] or [video_stream(original)]
    leading = {stream.index: RisingTimes() for stream in leads}
    following = {stream.index: FollowingTimes() for stream in streams if stream not in leads}
    try:
        for packet in _demuxed(original, [*leads, *(stream for stream in streams if stream not in leads)]):
            index = packet.stream.index
            if packet.size and index in leading:
                if not leading[index].admits(packet):
                    continue
                shift = leading[index].shift
            elif packet.size:
                following[index].take(packet, shift)
            if packet.dts is not None:
                now = max(now, packet.dts * packet.time_base)
            for track in tracks.values():
                for out in track.until(now):
                    yield now, out
            if index in tracks:
                for out in tracks[index].packets(packet):
                    yield now, out
            yield now, None
    except av.error.FFmpegError:
        pass
    for index, times in leading.items():
        if index not in tracks:  # the picture, of which the frames' reader tells
            continue
        if times.dropped:
            warnings.append(f"{times.dropped} packets of audio track {index} repeat a time, and are left out")
        if times.shift:
            warnings.append(
                f"the times of audio track {index} begin anew; what follows was put behind what came before"
            )


def _demuxed(original: InputContainer, streams: list[Stream]) -> Iterator[Packet[Stream]]:
    """The packets as far as the file can be read, and at the end of each stream an empty one."""
    try:
        yield from Jumps(original).packets(streams)
    except av.error.FFmpegError:
        for stream in streams:
            flush: Packet[Stream] = Packet()
            flush.stream = stream
            yield flush
