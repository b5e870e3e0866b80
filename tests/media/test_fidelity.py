"""Timestamps, sound, tags, rotation, sample aspect ratio and metadata survive."""

from __future__ import annotations

import os
import random
import struct
import zlib
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from media.assemble import assemble
from media.demux.timestamps import decoding_times, movie_timescale, reorder_depth
from media.encode.segment import SegmentWriter
from media.errors import MediaError, OverLimit, UnusableVideo
from media.limits import Limits
from media.probe import probe
from media.reader import VideoReader
from media.spec import output_spec
from media.types import ColorRange
from tests.support.hostile import png_video
from tests.support.media import children, packets, shown, stripes, upscale, video_packets, write_clip

VFR = (0, 40, 47, 130, 131, 400, 433, 467, 900, 901, 902, 1999)


@pytest.mark.parametrize("unit", [Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 30000)])
def test_every_frame_of_a_vfr_clip_keeps_its_time(tmp_path: Path, unit: Fraction) -> None:
    source = write_clip(tmp_path / "in.mp4", times=[t * 7 for t in VFR], unit=unit)
    result = upscale(source, tmp_path)
    assert shown(result.path) == shown(source) == [t * 7 * unit for t in VFR]
    assert result.warnings == ()


@pytest.mark.parametrize("chunk", [1, 5, 8])
def test_frames_much_closer_than_the_nominal_rate_says_keep_their_times(tmp_path: Path, chunk: int) -> None:
    """A wrong remux squeezed the pictures to 600 a second. Equal pictures become B-frames that refer to B-frames."""
    times = [0, 2, 3, 5, 7, 8, 10, 12, 13, 15, 17, 18, 20, 22, 23, 25]
    source = write_clip(tmp_path / "in.mp4", times=times, unit=Fraction(1, 1000))
    info = probe(source)
    spec = output_spec(replace(info, video=replace(info.video, frame_rate=Fraction(25))), scale=2)
    segments = []
    for start in range(0, 16, chunk):
        segments.append(tmp_path / f"{start:02}.mp4")
        with SegmentWriter(segments[-1], spec) as writer:
            for index in range(start, min(start + chunk, 16)):
                writer.write(stripes(0, 64, 48), times[index])
    out = tmp_path / "result.mp4"
    assert assemble(segments, source, out, spec).warnings == ()
    assert shown(out) == [Fraction(time, 1000) for time in times]


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("start", [0, 3, 250])
def test_start_offset_and_av_offset_are_kept(tmp_path: Path, container: str, start: int) -> None:
    def tone(target: av.container.OutputContainer) -> list[tuple[object, int]]:
        return [(target.add_stream("aac", rate=48000, layout="mono"), 4800)]

    source = write_clip(tmp_path / f"in.{container}", times=[start + t for t in range(12)], tone=tone)
    result = upscale(source, tmp_path)
    assert len(shown(result.path)) == 12
    assert [abs(a - b) for a, b in zip(shown(source), shown(result.path), strict=True)] <= [Fraction(1, 1000)] * 12
    before, after = packets(source, "audio"), packets(result.path, "audio")
    assert [data for _, data in before] == [data for _, data in after]
    offsets = [
        abs((a - shown(source)[0]) - (b - shown(result.path)[0])) for (a, _), (b, _) in zip(before, after, strict=True)
    ]
    assert max(offsets) <= Fraction(1, 1000)


def test_tracks_and_metadata_are_kept(tmp_path: Path) -> None:
    """Two audio tracks with languages, chapters, title, rotation and sample aspect ratio are in the result."""

    def tone(target: av.container.OutputContainer) -> list[tuple[object, int]]:
        tracks = [target.add_stream("aac", rate=rate, layout="mono") for rate in (48000, 44100)]
        for track, language in zip(tracks, ("eng", "deu"), strict=True):
            track.metadata["language"] = language
        tracks[0].disposition = av.stream.Disposition(0)
        tracks[1].disposition = av.stream.Disposition.default
        return [(track, 0) for track in tracks]

    def prepare(target: av.container.OutputContainer, video: av.VideoStream) -> None:
        target.metadata["title"] = "Stripes"
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)
        video.set_display_rotation(90)
        target.set_chapters(
            [
                {
                    "id": n,
                    "start": n * 200,
                    "end": n * 200 + 200,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": t},
                }
                for n, t in enumerate(["One", "Two"])
            ]
        )

    source = write_clip(tmp_path / "in.mp4", tone=tone, prepare=prepare)
    result = upscale(source, tmp_path)
    before, after = probe(source), probe(result.path)
    assert [(a.codec, a.language, a.sample_rate) for a in after.audio] == [("aac", "eng", 48000), ("aac", "deu", 44100)]
    assert after.video.sample_aspect_ratio == Fraction(4, 3)
    assert after.video.display_matrix == before.video.display_matrix is not None
    assert after.video.rotation == before.video.rotation != 0
    for number in (0, 1):
        assert packets(source, "audio", number) == packets(result.path, "audio", number)
    with av.open(str(source)) as a, av.open(str(result.path)) as b:
        assert b.metadata["title"] == "Stripes"
        assert [(c["metadata"], c["start"] * c["time_base"]) for c in a.chapters() if c["time_base"]] == [
            (c["metadata"], c["start"] * c["time_base"]) for c in b.chapters() if c["time_base"]
        ]
        assert [s.disposition for s in a.streams.audio] == [s.disposition for s in b.streams.audio]


def test_result_plays_everywhere(tmp_path: Path) -> None:
    """H.264 4:2:0, 8 bits, index before data, a keyframe at the start of every chunk, increasing dts."""
    result = upscale(write_clip(tmp_path / "in.mp4", times=range(17)), tmp_path, chunk=5)
    data = result.path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    info = probe(result.path)
    assert (info.video.codec, info.video.pixel_format, info.video.frames) == ("h264", "yuv420p", 17)
    coded = video_packets(result.path)
    assert [dts for _, dts, _ in coded] == sorted({dts for _, dts, _ in coded})
    assert all(dts <= pts for pts, dts, _ in coded)
    keys = {pts for pts, _, key in coded if key}
    assert {pts for pts, _, _ in sorted(coded)[::5]} <= keys


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_segments_are_the_same_bytes_on_every_run(tmp_path: Path, codec: str) -> None:
    source = write_clip(tmp_path / "in.mp4", width=64, height=48)
    spec = output_spec(probe(source), codec=codec)
    made = []
    for name in ("a.mp4", "b.mp4"):
        with SegmentWriter(tmp_path / name, spec) as writer:
            for index in range(9):
                writer.write(stripes(index, 256, 192), index)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_a_segment_does_not_depend_on_used_memory(tmp_path: Path, codec: str) -> None:
    spec = output_spec(probe(Path("examples/clip.mp4")), codec=codec)
    with av.open("examples/clip.mp4") as container:
        frames = [
            frame.reformat(spec.width, spec.height, format="rgb24").to_ndarray()
            for frame in islice(container.decode(video=0), 24)
        ]
    made, rng = set(), random.Random(2)
    for _ in range(25 if codec == "h264" else 5):
        # x264's AVX512 code gave different bytes in 8 of 25 such runs
        rubbish = [os.urandom(rng.randint(1000, 3_000_000)) for _ in range(rng.randint(0, 20))]
        if rng.random() < 0.7:
            rubbish.clear()
        with SegmentWriter(tmp_path / "a.mp4", spec) as writer:
            for index, frame in enumerate(frames):
                writer.write(frame, index)
        made.add((tmp_path / "a.mp4").read_bytes())
    assert len(made) == 1


def test_reading_again_after_a_frame_gives_the_rest(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4")
    with VideoReader(source) as reader:
        every = list(reader)
    with VideoReader(source, start_after_pts=every[6].pts) as reader:
        rest = list(reader)
    assert [f.pts for f in rest] == [f.pts for f in every[7:]]
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(rest, every[7:], strict=True))


def test_a_failed_writer_leaves_no_file(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4")
    spec = output_spec(probe(source))
    target = tmp_path / "segment.mp4"

    def same_time_twice() -> None:
        with SegmentWriter(target, spec) as writer:
            writer.write(stripes(0, 128, 96), 5)
            writer.write(stripes(1, 128, 96), 5)

    with pytest.raises(ValueError, match="not above"):
        same_time_twice()
    with pytest.raises(MediaError, match="at least one frame"), SegmentWriter(target, spec):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3), (7, 5), (33, 17)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    source = write_clip(
        tmp_path / "in.nut", width=width, height=height, codec="rawvideo", pixel_format="yuv444p", times=range(3)
    )
    for scale in (3, 4):
        result = upscale(source, tmp_path, scale=scale)
        assert probe(result.path).video.width == result.spec.width
        assert result.spec.width % 2 == 0
        assert abs(result.spec.width - width * scale) <= 1


def test_height_is_exact_and_the_width_follows(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "in.mp4", width=64, height=36))
    spec = output_spec(info, height=90)
    assert (spec.width, spec.height) == (160, 90)
    with pytest.raises(OverLimit, match="SKIPVSR_MAX_OUTPUT_PIXELS"):
        output_spec(info, limits=Limits(max_output_pixels=64 * 36))


def test_ten_bits_stay_ten_bits(tmp_path: Path) -> None:
    source = write_clip(
        tmp_path / "in.mkv", codec="ffv1", pixel_format="yuv420p10le", width=32, height=32, times=range(4)
    )
    with VideoReader(source) as reader:
        frames = list(reader)
    assert frames[0].rgb.dtype == np.uint16
    result = upscale(source, tmp_path, codec="hevc")
    video = probe(result.path).video
    assert (video.codec, video.bit_depth, video.pixel_format) == ("hevc", 10, "yuv420p10le")


def test_hdr10_is_kept(tmp_path: Path) -> None:
    hdr = (
        "log-level=none:hdr10=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:range=limited:"
        "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
    )
    source = write_clip(
        tmp_path / "in.mp4",
        codec="libx265",
        pixel_format="yuv420p10le",
        width=64,
        height=64,
        options={"x265-params": hdr},
    )
    before = probe(source).video
    assert before.mastering_display is not None
    assert before.content_light == (1000, 400)
    after = probe(upscale(source, tmp_path, codec="hevc").path).video
    assert after.mastering_display == before.mastering_display
    assert after.content_light == before.content_light
    assert (after.color.primaries, after.color.transfer, after.color.matrix) == (9, 16, 9)
    assert after.color.range == ColorRange.LIMITED


def test_interlaced_material_becomes_frames(tmp_path: Path) -> None:
    source = write_clip(
        tmp_path / "in.mp4", options={"x264-params": "interlaced=1:tff=1"}, width=64, height=64, times=range(8)
    )
    result = upscale(source, tmp_path)
    assert any("bwdif" in warning for warning in result.warnings)
    assert shown(result.path) == shown(source)
    with av.open(str(result.path)) as container:
        assert not any(frame.interlaced_frame for frame in container.decode(video=0))


def _with_palette(path: Path, alphas: bytes) -> Path:
    """Three pictures with a palette: red on the left, green on the right, and a third, unused colour."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 64, 64, 8, 3, 0, 0, 0)
    colors = bytes([255, 0, 0, 0, 255, 0, 9, 9, 9])
    rows = (b"\0" + bytes(32) + b"\1" * 32) * 64
    parts = [(b"IHDR", head), (b"PLTE", colors), (b"tRNS", alphas), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(part(kind, data) for kind, data in parts if data or kind == b"IEND")
    png_video(path, [picture] * 3)
    return path


@pytest.mark.parametrize("alphas", [b"", b"\xff\xff", b"\xff\xff\0"])
def test_a_palette_is_transparent_only_where_a_used_color_is(tmp_path: Path, alphas: bytes) -> None:
    source = _with_palette(tmp_path / "in.mov", alphas)
    assert probe(source).video.pixel_format == "pal8"
    with VideoReader(source) as reader:
        frames = [frame.rgb for frame in reader]
    assert len(frames) == 3
    assert frames[0][0, 0].tolist() == [255, 0, 0]
    assert frames[0][0, 63].tolist() == [0, 255, 0]
    with pytest.raises(UnusableVideo, match="transparency"):
        probe(_with_palette(tmp_path / "glass.mov", b"\xff\x80"))


def test_changing_frame_sizes_are_scaled_and_reported(tmp_path: Path) -> None:
    """Two concatenated H.264 streams of different size, as in broadcast recordings."""
    parts = [
        write_clip(tmp_path / f"{n}.h264", width=w, height=h, times=range(6), container_format="h264")
        for n, (w, h) in enumerate([(32, 24), (64, 48)])
    ]
    source = tmp_path / "in.h264"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    result = upscale(source, tmp_path)
    assert len(result.times) == 12
    assert any("frame size changes" in warning for warning in result.warnings)
    assert children() == []


def test_decoding_times_rise_and_stay_below(tmp_path: Path) -> None:
    coded = [0, 40, 20, 10, 30, 80, 60]
    depth = reorder_depth(coded)
    dts = decoding_times(coded, depth, step=10)
    assert depth == 2
    assert dts == sorted(set(dts))
    assert all(d <= p for d, p in zip(dts, coded, strict=True))
    following = decoding_times([100, 90, 95], depth, before=sorted(coded)[-depth:], step=10)
    assert following[0] > dts[-1]
    assert movie_timescale(30000, 44100) % 30000 == movie_timescale(30000, 44100) % 44100 == 0
    assert movie_timescale(2**31 - 1, 48000) == 2**31 - 1
