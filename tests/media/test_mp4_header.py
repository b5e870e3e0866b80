"""MP4's and QuickTime's header: frame rate, lengths, shown size, tags, and its place."""

from __future__ import annotations

import itertools
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from media.boxes import Box, outer_boxes, parse, read_outer_box
from media.demux.last_frame import frame_duration
from media.jailed import mp4_header
from media.jailed.mp4_header import Mp4Header, finish
from media.jailed.timing import Timing
from media.limits import DEFAULT_LIMITS
from media.probe import probe
from tests.support.media import Upscaled, shown, upscale, write_clip

NTSC = [1001 * n for n in range(13)]
VFR = [0, 3, 4, 10, 11, 12, 30, 31, 40, 41, 42, 60, 75]


def _track(path: Path) -> Box:
    with path.open("rb") as file:
        track = read_outer_box(file, b"moov").find(b"trak")
    assert track is not None
    return track


def _box(track: Box, *names: bytes) -> bytes:
    box = track.find(*names)
    assert box is not None
    return bytes(box.fields)


def _sample_durations(track: Box) -> list[tuple[int, int]]:
    """(number of samples, their duration), as run lengths."""
    table = _box(track, b"mdia", b"minf", b"stbl", b"stts")
    return list(struct.iter_unpack(">2I", table[8:]))


def _edits(path: Path) -> tuple[Fraction, Fraction]:
    """Start in the media, and length, of the only edit of the first track, in seconds."""
    track = _track(path)
    with path.open("rb") as file:
        movie_units = struct.unpack_from(">I", _box(read_outer_box(file, b"moov"), b"mvhd"), 12)[0]
    media_units = struct.unpack_from(">I", _box(track, b"mdia", b"mdhd"), 12)[0]
    (edits,) = parse(_box(track, b"edts"))
    count, length, start = struct.unpack_from(">IIi", edits.fields, 4)
    assert count == 1
    return Fraction(start, media_units), Fraction(length, movie_units)


@pytest.mark.parametrize("chunk", [1, 4, 5, 24])
@pytest.mark.parametrize(
    ("unit", "times", "rate"),
    [
        (Fraction(1, 25), list(range(13)), Fraction(25)),
        (Fraction(1, 12800), [512 * n for n in range(13)], Fraction(25)),
        (Fraction(1, 30000), NTSC, Fraction(30000, 1001)),
        (Fraction(1, 30000), [*NTSC, 13_013], Fraction(30000, 1001)),  # the source's edit list ends 0.13 ms early
    ],
)
@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_a_constant_frame_rate_stays_constant(
    tmp_path: Path, container: str, unit: Fraction, times: list[int], rate: Fraction, chunk: int
) -> None:
    def prepare(target: Any, video: Any) -> None:
        video.codec_context.framerate = rate

    source = write_clip(tmp_path / "in.mp4", times=times, unit=unit, prepare=prepare)
    result = upscale(source, tmp_path, container=container, chunk=chunk)
    with av.open(str(result.path)) as opened:
        assert opened.streams.video[0].average_rate == rate
        assert opened.streams.video[0].guessed_rate == rate
    step = int(1 / rate / result.spec.time_base)
    assert _sample_durations(_track(result.path)) == [(len(times), step)]
    assert _edits(result.path)[1] == len(times) / rate
    assert probe(result.path).video.frame_rate == rate
    assert shown(result.path) == shown(source)


@pytest.mark.parametrize("rate", [Fraction(30), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60)])
@pytest.mark.parametrize("frames", [13, 14, 15])
def test_times_rounded_by_matroska_give_the_exact_rate(tmp_path: Path, rate: Fraction, frames: int) -> None:
    def prepare(target: Any, video: Any) -> None:
        video.codec_context.framerate = rate

    unit = Fraction(1, 120_000)
    times = [int(n / rate / unit) for n in range(frames)]
    source = write_clip(tmp_path / "in.mkv", times=times, unit=unit, prepare=prepare)
    assert probe(source).video.time_base == Fraction(1, 1000)
    result = upscale(source, tmp_path, container="mp4")
    assert shown(result.path) == shown(source), "the times themselves are the source's"
    with av.open(str(result.path)) as opened:
        assert opened.streams.video[0].average_rate == rate
    assert _edits(result.path)[1] == frames / rate
    assert result.warnings == ()


@pytest.mark.parametrize("chunk", [1, 3, 5, 24])
@pytest.mark.parametrize("last", [1, 9, 400])
def test_all_durations_of_a_variable_rate_are_kept(tmp_path: Path, chunk: int, last: int) -> None:
    def end(target: Any, video: Any) -> None:
        video.codec_context.max_b_frames = 0

    source = _ending_after(write_clip(tmp_path / "in.mkv", times=VFR, unit=Fraction(1, 1000), prepare=end), last)
    result = upscale(source, tmp_path, chunk=chunk)
    durations = sorted(d for count, duration in _sample_durations(_track(result.path)) for d in [duration] * count)
    assert durations == sorted([*(b - a for a, b in itertools.pairwise(VFR)), last])
    assert _edits(result.path)[1] == Fraction(75 + last, 1000)
    with av.open(str(result.path)) as opened:
        stream = opened.streams.video[0]
        assert stream.average_rate == Fraction(13 * 1000, 75 + last)
        assert stream.duration == 75 + last
    assert shown(result.path) == shown(source)


def _ending_after(source: Path, last: int) -> Path:
    """The same file as MP4, with a last frame of `last` milliseconds."""
    path = source.with_suffix(".mp4")
    options = {"video_track_timescale": "1000"}
    with av.open(str(source)) as original, av.open(str(path), "w", container_options=options) as target:
        stream = target.add_stream_from_template(original.streams.video[0], opaque=True)
        packets = [packet for packet in original.demux(video=0) if packet.size]
        for packet in packets:
            packet.duration = last if packet is packets[-1] else 0
            packet.stream = stream
            target.mux(packet)
    return path


@pytest.mark.parametrize("container", ["mkv", "webm"])
@pytest.mark.parametrize("times", [[40 * n for n in range(13)], VFR])
def test_matroska_states_the_average_rate(tmp_path: Path, container: str, times: list[int]) -> None:
    source = write_clip(tmp_path / "in.mp4", times=times, unit=Fraction(1, 1000))
    length = times[-1] + (frame_duration(source, times[-1], DEFAULT_LIMITS) or 0)
    data = upscale(source, tmp_path, container=container, chunk=4).path.read_bytes()
    at = data.index(b"\x23\xe3\x83") + 4  # DefaultDuration
    nanoseconds = int.from_bytes(data[at : at + data[at - 1] - 0x80], "big")
    assert abs(nanoseconds - Fraction(length * 10**6, 13)) <= 1


def test_the_shown_width_is_in_the_track_header(tmp_path: Path) -> None:
    def shape(target: Any, video: Any) -> None:
        video.codec_context.sample_aspect_ratio = Fraction(3, 2)

    source = write_clip(tmp_path / "in.mp4", prepare=shape)
    for container, width in (("mp4", 96), ("mov", 64)):  # QuickTime's header has the stored width
        result = upscale(source, tmp_path, container=container)
        shown_size = struct.unpack(">2I", _box(_track(result.path), b"tkhd")[-8:])
        assert [side / 65536 for side in shown_size] == [width, 48]
        assert probe(result.path).video.sample_aspect_ratio == Fraction(3, 2)


TAGS = {"title": "Ärger & Öl", "artist": "Somebody", "comment": "words", "com.apple.quicktime.make": "A camera"}


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_tags_are_there_in_both_forms(tmp_path: Path, container: str) -> None:
    def name(target: Any, video: Any) -> None:
        target.metadata.update({**TAGS, "com.android.capture.fps": "30"})

    plain = write_clip(tmp_path / "in.mkv", prepare=name)
    path = upscale(plain, tmp_path, container=container).path
    with av.open(str(path)) as opened:
        said = {key.lower(): value for key, value in opened.metadata.items()}
    assert TAGS.items() <= said.items()
    assert float(said["com.android.capture.fps"]) == 30
    with path.open("rb") as file:
        movie = read_outer_box(file, b"moov")
    known = bytes(movie.find(b"udta"))  # type: ignore[arg-type]
    assert b"\xa9nam" in known
    assert b"\xa9ART" in known
    assert TAGS["title"].encode() in known
    free = bytes(movie.find(b"meta"))  # type: ignore[arg-type]
    assert b"mdta" in free
    assert b"com.apple.quicktime.make" in free.lower()


def _finished(result: Upscaled, path: Path) -> Path:
    """The result as libav's muxer writes it, then finished."""
    with av.open(str(result.path)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    list(finish(path, Mp4Header()))
    return path


def test_offsets_above_four_gigabytes_get_eight_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = upscale(write_clip(tmp_path / "in.mp4"), tmp_path)
    monkeypatch.setattr(mp4_header, "_BLOCK", 1000)
    plain = _finished(result, tmp_path / "plain.mp4")
    assert _track(plain).find(b"mdia", b"minf", b"stbl", b"stco")
    monkeypatch.setattr(mp4_header, "_LARGEST", 1000)
    large = _finished(result, tmp_path / "large.mp4")
    assert _track(large).find(b"mdia", b"minf", b"stbl", b"co64")
    with av.open(str(plain)) as a, av.open(str(large)) as b:
        assert [bytes(p) for p in a.demux(video=0)] == [bytes(p) for p in b.demux(video=0)]
    with large.open("rb") as file:
        assert [name for name, _, _ in outer_boxes(file)] == [b"ftyp", b"moov", b"free", b"mdat"]


def test_only_a_new_file_can_be_finished(tmp_path: Path) -> None:
    result = upscale(write_clip(tmp_path / "in.mp4"), tmp_path)
    with pytest.raises(ValueError, match="does not follow"):
        list(finish(result.path, Mp4Header()))
    with pytest.raises(ValueError, match="impossible size"):
        list(parse(b"\0\0\0\x09moov"))


def test_the_lead_of_decoding_times_repeats_the_last_distances() -> None:
    timing = Timing(Fraction(25), Fraction(1, 25))
    for times in ([0, 2, 1], [3, 5, 4], [6]):
        timing.add(times)
    assert (timing.depth, timing.lead, timing.last, timing.frames) == (1, [-1], 6, 7)
    assert timing.is_constant
    timing.add([9, 30, 20, 10])
    assert (timing.depth, timing.lead) == (2, [-20, -10])
    assert not timing.is_constant
