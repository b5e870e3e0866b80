"""Muxing segments, and the source's other tracks, to the result."""

from __future__ import annotations

import errno
import heapq
import io
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from media.color.hdr import hdr_boxes, header_with_boxes, mastering_display
from media.demux.last_frame import HELD_SECONDS, frame_duration, sound_ends
from media.demux.opening import open_untrusted, video_stream
from media.demux.timestamps import movie_timescale
from media.errors import Unwritable
from media.jailed.mp4_header import Mp4Header, finish
from media.jailed.segments import SegmentPackets, segment_times, timestamp_shift
from media.jailed.timing import End, Timing
from media.jailed.track_packets import track_packets
from media.jailed.verify import Promise, Verification
from media.jailed.written import Written
from media.ledger import Amount, Ledger
from media.ledger import warnings as ledger_warnings
from media.limits import Limits
from media.sandbox.protocol import Muxed, MuxProgress, MuxRequest
from media.tracks.attachments import add_attachments, add_covers, is_cover
from media.tracks.languages import extended
from media.tracks.passthrough import add_track, is_passed_through
from media.tracks.tags import copied_tags
from media.tracks.track import Track
from media.tracks.trial import MUXERS
from media.tracks.vobsub import CODEC, Mp4Description, mp4_description
from media.types import OutputSpec


def mux(request: MuxRequest, limits: Limits) -> Iterator[MuxProgress | Muxed]:
    """Write the result, as `media.assemble.assemble` describes. Yields progress, and `Muxed` at the end.

    Raises:
        Unwritable: the container can't hold the segments.
        MediaError: the segments do not fit together.
        UnsupportedFile, OverLimit: the source can't be opened.
        OSError: the disk is full.
    """
    spec, warnings, ledger = request.spec, list[str](), Ledger()
    with ExitStack() as stack:
        source = stack.enter_context(open_untrusted(request.source, limits))
        template = stack.enter_context(_template(request.segments[0], spec))
        try:
            timing = Timing(spec.frame_rate, spec.time_base)
            for path in request.segments:
                timing.add(segment_times(path, spec.time_base))
                yield MuxProgress()
            pause = _Pause(min(1.0, limits.max_decoder_seconds / 4))
            last_duration = yield from _last_duration(request, timing.last, limits, pause)
            end = timing.end(last_duration)
            target = stack.enter_context(_open_output(request, source, end.finer))
            video = _add_video(target, template.streams.video[0], video_stream(source), spec, end)
            tracks = dict(_add_tracks(target, source, spec.container, warnings))
            add_covers(target, spec.container, source)
            target.metadata.update(copied_tags(source.metadata))
            target.set_chapters(source.chapters())
            packets = heapq.merge(
                SegmentPackets(request.segments, video, spec, timing, end, warnings),
                track_packets(source, tracks, ledger),
                key=lambda item: item[0],
            )
            written = Written()
            for _, packet in packets:
                if packet is not None:
                    written.add(packet)
                    target.mux_one(packet)
                if pause.is_over():
                    yield MuxProgress()
            numbers = _numbers(target, spec.container, written)
            check = Verification(
                request.out, dict(_promises(request, video, tracks, numbers, written)), target.metadata
            )
            header = _mp4_header(spec, source, tracks, numbers)
            _enter(ledger, video_stream(source), video, tracks, written)
            target.close()
            if spec.container in ("mp4", "mov"):
                yield from (MuxProgress() for _ in finish(request.out, header))
            yield from (MuxProgress() for _ in check if pause.is_over())
        except (av.error.FFmpegError, ValueError) as e:
            if isinstance(e, OSError) and e.errno == errno.ENOSPC:
                raise OSError(errno.ENOSPC, "the disk is full") from e
            # The text of libav's errors names the file on this machine.
            reason = (e.strerror or "unknown error") if isinstance(e, av.error.FFmpegError) else str(e)
            raise Unwritable(
                f"The result can't be written as {spec.container} ({reason.lower()}). Choose another container."
            ) from e
    yield Muxed((*warnings, *ledger_warnings(ledger), *check.warnings), ledger, check.promises[0].frame_rate)


class _Pause:
    """Time between two reports of progress."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._begun = seconds, time.monotonic()

    def is_over(self) -> bool:
        """Whether the time has passed. If so, the next pause begins."""
        now = time.monotonic()
        if now - self._begun <= self._seconds:
            return False
        self._begun = now
        return True


def _last_duration(request: MuxRequest, last: int, limits: Limits, pause: _Pause) -> Generator[MuxProgress, None, int]:
    """Duration of the frame at `last` in the source, or until the sound ends, or of a frame at the nominal rate."""
    unit = request.spec.time_base
    duration = frame_duration(request.source, last, limits, unit)
    if duration is not None:
        return duration
    held = Fraction(0)
    for end in sound_ends(request.source, last * unit, limits):
        held = end - last * unit
        if pause.is_over():
            yield MuxProgress()
    if held > HELD_SECONDS:
        return round(held / unit)
    return max(1, round(1 / (request.spec.frame_rate * unit)))


def _open_output(request: MuxRequest, source: InputContainer, finer: int) -> OutputContainer:
    spec, below_zero = request.spec, timestamp_shift(request.segments[0]) < 0
    options = {"fflags": "+bitexact"}
    if spec.container in ("mp4", "mov"):
        options |= _mp4_options(spec.time_base.denominator * finer, source)
        if below_zero and "mp4" not in source.format.name:
            # No edit list of the source hides the frames before zero.
            options["avoid_negative_ts"] = "make_zero"
    elif not below_zero:
        # libav would shift all timestamps for a codec's priming samples before zero.
        options["avoid_negative_ts"] = "disabled"
    return av.open(str(request.out), "w", format=MUXERS[spec.container], container_options=options)


def _mp4_options(units: int, source: InputContainer) -> dict[str, str]:
    rates = [s.codec_context.sample_rate for s in source.streams.audio if s.codec_context]
    return {
        "video_track_timescale": str(units),
        "movie_timescale": str(movie_timescale(units, *(r for r in rates if r))),
    }


def _template(segment: Path, spec: OutputSpec) -> InputContainer:
    """A file whose video stream describes the result's, including HDR10's metadata."""
    boxes = hdr_boxes(mastering_display(spec.mastering_display), spec.content_light)
    opened = av.open(io.BytesIO(header_with_boxes(segment, boxes)) if boxes else str(segment), "r", format="mp4")
    assert isinstance(opened, InputContainer)
    return opened


def _add_video(
    target: OutputContainer, template: VideoStream, original: VideoStream, spec: OutputSpec, end: End
) -> VideoStream:
    stream = target.add_stream_from_template(template, opaque=True)
    stream.time_base = spec.time_base / end.finer
    stream.codec_context.sample_aspect_ratio = spec.sample_aspect_ratio  # some codecs' headers lack it
    stream.codec_context.framerate = end.rate  # Matroska stores the rate as the frames' usual duration
    if spec.codec == "hevc" and spec.container in ("mp4", "mov"):
        stream.codec_context.codec_tag = "hvc1"  # Apple's players do not play libav's default, hev1
    stream.metadata.update(copied_tags(original.metadata))
    stream.disposition = original.disposition
    if spec.display_matrix is not None:
        stream.set_display_matrix(spec.display_matrix)
    return stream


def _mp4_header(
    spec: OutputSpec, source: InputContainer, tracks: dict[int, Track], numbers: dict[int, int]
) -> Mp4Header:
    """The parts that libav's muxer leaves out.

    Args:
        tracks: index in the source → track.
        numbers: index in the result → number of the track's box.
    """
    quicktime = spec.container == "mov"
    languages, vobsubs, priming = dict[int, str](), dict[int, Mp4Description](), dict[int, Fraction]()
    for index, track in tracks.items():
        stream, number = source.streams[index], numbers.get(track.target.index)
        if number is None:
            continue
        priming[number] = track.priming
        if language := extended(stream.metadata.get("language")):
            languages[number] = language
        if track.target.codec_context.codec.canonical_name == CODEC and (found := mp4_description(source, stream)):
            vobsubs[number] = found
    return Mp4Header(
        quicktime=quicktime,
        # QuickTime's track header has the stored width.
        sample_aspect_ratio=Fraction(1) if quicktime else spec.sample_aspect_ratio,
        tags=copied_tags(source.metadata),
        languages=languages,
        vobsubs=vobsubs,
        priming=priming,
    )


def _numbers(target: OutputContainer, kind: str, written: Written) -> dict[int, int]:
    """Index of each track → its number in the file. MP4 has no track for a cover, or without packets."""
    if kind not in ("mp4", "mov"):
        return {stream.index: stream.index for stream in target.streams}
    boxed = [stream.index for stream in target.streams if written[stream].packets and not is_cover(stream)]
    return {index: number for number, index in enumerate(boxed)}


def _promises(
    request: MuxRequest, video: VideoStream, tracks: dict[int, Track], numbers: dict[int, int], written: Written
) -> Iterator[tuple[int, Promise]]:
    """Number of each track in the file → the muxer's input for the track."""
    # MP4's edit lists hide what precedes zero, unless libav moves all times.
    hides = request.spec.container in ("mp4", "mov") and timestamp_shift(request.segments[0]) >= 0
    for index, stream in [(None, video), *((index, track.target) for index, track in tracks.items())]:
        number, received = numbers.get(stream.index), written[stream]
        if number is None or received.begin is None:
            continue
        begin = max(received.begin, Fraction(0)) if hides else received.begin
        name = "The video" if index is None else f"{stream.type.capitalize()} track {index}"
        seconds = received.end - begin
        rate = received.packets / seconds if index is None and seconds else None
        language = stream.metadata.get("language")
        yield number, Promise(name, stream.type, received.packets, begin, seconds, language, rate)


def _enter(
    ledger: Ledger, original: VideoStream, video: VideoStream, tracks: dict[int, Track], written: Written
) -> None:
    """Enter what was written into the ledger."""
    picture = written[video]
    ledger.track(original.index, "video").written = Amount(picture.packets, picture.packets, float(picture.seconds))
    for index, track in tracks.items():
        received = written[track.target]
        ledger.track(index, track.target.type).written.seconds = float(received.seconds)


def _add_tracks(
    target: OutputContainer, source: InputContainer, kind: str, warnings: list[str]
) -> Iterator[tuple[int, Track]]:
    """Add the source's other tracks. Yields (index in the source, track)."""
    main = video_stream(source).index
    others: list[Stream] = [s for s in source.streams if s.index != main and is_passed_through(s)]
    for stream in others:
        track = add_track(target, kind, stream, warnings)
        if track is not None:
            yield stream.index, track
    add_attachments(target, kind, source.streams.attachments, warnings)
