"""The result's container: the choice, its tracks, and the warnings about losses."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from pydantic import ValidationError

from jobs.schema import JobOptions
from media.color.hdr import hdr_boxes, header_with_boxes, mastering_display
from media.demux.timestamps import rounding_warning
from media.encode.segment import SegmentWriter
from media.errors import UnusableVideo
from media.probe import probe
from media.spec import output_spec
from tests.support.media import shown, stripes, upscale, with_subtitles, write_clip

HDR = (
    "log-level=none:hdr10=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:range=limited:"
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
)


def _with_cover(path: Path) -> Path:
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width = encoder.height = 16
    encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1)
    picture = b"".join(bytes(p) for p in [*encoder.encode(av.VideoFrame(16, 16, "rgb24")), *encoder.encode(None)])
    plain = write_clip(path.with_suffix(".plain.mp4"))
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0], opaque=True)
        cover = target.add_mux_stream("png", width=16, height=16)
        cover.disposition = av.stream.Disposition.attached_pic
        packet: Any = av.Packet(picture)
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
        target.mux_one(packet)
        for part in source.demux(video=0):
            if part.size:
                part.stream = video
                target.mux(part)
    return path


def _heard(path: Path) -> Fraction:
    """Time of the first audible sample. Negative before the first picture."""
    with av.open(str(path)) as container:
        frame = next(container.decode(audio=0))
        assert frame.pts is not None
        assert frame.time_base is not None
        return frame.pts * frame.time_base


@pytest.mark.parametrize(
    ("container", "codec", "format_name", "sound", "text"),
    [
        ("mp4", "h264", "mov,mp4,m4a,3gp,3g2,mj2", "aac", "mov_text"),
        ("mov", "h264", "mov,mp4,m4a,3gp,3g2,mj2", "aac", "mov_text"),
        ("mkv", "h264", "matroska,webm", "aac", "subrip"),
        ("webm", "av1", "matroska,webm", "opus", "webvtt"),
    ],
)
def test_each_container_holds_all_tracks(
    tmp_path: Path, container: str, codec: str, format_name: str, sound: str, text: str
) -> None:
    def tone(target: av.container.OutputContainer) -> list[tuple[object, int]]:
        return [(target.add_stream("aac", rate=44100, layout="mono"), 0)]

    source = with_subtitles(tmp_path / "in.mkv", tone=tone)
    result = upscale(source, tmp_path, container=container)
    assert result.path.name == f"result.{container}"
    after = probe(result.path)
    assert after.video.codec == codec
    assert [track.codec for track in after.audio] == [sound]
    assert [(track.codec, track.language) for track in after.subtitles] == [(text, "fra")]
    assert after.attachments == (("font.ttf",) if container == "mkv" else ())
    with av.open(str(result.path)) as opened:
        assert opened.format.name == format_name
    assert (result.path.read_bytes()[:64].find(b"webm") > 0) == (container == "webm")
    assert shown(result.path) == shown(source)
    assert abs(_heard(source) - _heard(result.path)) <= Fraction(1, 1000)
    said = {"mkv": 0, "mp4": 2, "mov": 2, "webm": 3}[container]
    assert len(result.warnings) == said
    assert result.info.warnings == result.warnings, "all warnings appear before the start"


def test_auto_is_mp4_unless_it_loses_something(tmp_path: Path) -> None:
    plain = write_clip(tmp_path / "plain.mkv")
    assert probe(plain, target="auto").target == "mp4"
    fonts = with_subtitles(tmp_path / "fonts.mkv")
    assert probe(fonts, target="auto").target == "mkv"
    result = upscale(fonts, tmp_path, container="auto")
    assert (result.path.suffix, result.warnings) == (".mkv", ())
    only_text = with_subtitles(tmp_path / "text.mkv", font=False)
    assert probe(only_text, target="auto").target == "mp4", "plain text converts without loss"
    styled = with_subtitles(tmp_path / "styled.mkv", font=False, codec="ass")
    assert probe(styled, target="auto").target == "mkv"


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov", "webm"])
def test_a_cover_is_kept_or_named(tmp_path: Path, container: str) -> None:
    source = _with_cover(tmp_path / "in.mp4")
    result = upscale(source, tmp_path, container=container)
    covers = [
        stream.codec_context.codec.canonical_name
        for stream in av.open(str(result.path)).streams.video
        if stream.disposition & av.stream.Disposition.attached_pic
    ]
    if container in ("mp4", "mkv"):
        assert (covers, result.warnings) == (["png"], ())
    else:
        assert covers == []
        assert result.warnings == (f"The cover picture (png) is dropped because {container} can't hold it.",)
    assert len(shown(result.path)) == 12


def test_rounding_of_matroska_is_reported_before_the_start(tmp_path: Path) -> None:
    ntsc = write_clip(tmp_path / "ntsc.mp4", times=[1001 * n for n in range(9)], unit=Fraction(1, 30000))
    for container in ("mkv", "webm"):
        result = upscale(ntsc, tmp_path, container=container)
        assert result.info.warnings == result.warnings == (rounding_warning(container),)
        assert max(abs(a - b) for a, b in zip(shown(ntsc), shown(result.path), strict=True)) <= Fraction(1, 2000)
    assert upscale(ntsc, tmp_path, container="mp4").warnings == ()


@pytest.mark.parametrize("unit", [Fraction(1, 90000), Fraction(1, 12800), Fraction(1, 25)])
def test_whole_milliseconds_are_exact_in_matroska(tmp_path: Path, unit: Fraction) -> None:
    times = [int(n * Fraction(1, 25) / unit) for n in (0, 1, 2, 5, 6, 9, 30, 31)]
    source = write_clip(tmp_path / "pal.mp4", times=times, unit=unit)
    result = upscale(source, tmp_path, container="mkv")
    assert result.warnings == ()
    assert shown(result.path) == shown(source) == [t * unit for t in times]


def test_frames_closer_than_a_millisecond_survive_matroska(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", times=range(12), unit=Fraction(1, 10000))
    result = upscale(source, tmp_path, container="mkv")
    assert len(shown(result.path)) == 12


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_hdr10_is_in_the_container_too(tmp_path: Path, codec: str, container: str) -> None:
    source = write_clip(
        tmp_path / "in.mp4",
        codec="libx265",
        pixel_format="yuv420p10le",
        width=64,
        height=64,
        options={"x265-params": HDR},
        times=range(3),
    )
    result = upscale(source, tmp_path, codec=codec, container=container)
    before, after = probe(source).video, probe(result.path).video
    was, now = mastering_display(before.mastering_display), mastering_display(after.mastering_display)
    assert was is not None
    assert now is not None
    if codec == "av1":  # AV1 counts in 1/65536, and luminance in 1/256 and 1/16384
        assert all(
            abs(a - b) <= Fraction(1, 20000)
            for name in ("red", "green", "blue", "white")
            for a, b in zip(getattr(was, name), getattr(now, name), strict=True)
        )
        assert abs(was.darkest - now.darkest) <= Fraction(1, 16384)
    else:
        assert was == now
    assert after.content_light == before.content_light == (1000, 400)
    assert (after.codec, after.bit_depth, after.color.transfer) == (codec, 10, 16)
    data = result.path.read_bytes()
    if container == "mp4":
        assert hdr_boxes(mastering_display(before.mastering_display), None) in data
        assert hdr_boxes(None, (1000, 400)) in data
    else:  # MaxCLL and MaxFALL of RFC 9559, with sizes
        assert b"\x55\xbc\x82\x03\xe8" in data
        assert b"\x55\xbd\x82\x01\x90" in data
        assert b"\x55\xd0" in data


def test_hdr_boxes_need_a_video(tmp_path: Path) -> None:
    broken = tmp_path / "x.mp4"
    broken.write_bytes(b"\0\0\0\x08ftyp\0\0\0\x08moov")
    with pytest.raises(ValueError, match="no video track"):
        header_with_boxes(broken, b"")
    assert mastering_display(None) is None
    assert mastering_display(bytes(88)) is None


def test_av1_segments_are_the_same_bytes_on_every_run(tmp_path: Path) -> None:
    spec = output_spec(probe(write_clip(tmp_path / "in.mp4", width=32, height=24)), codec="av1")
    made = []
    for name in ("a.mp4", "b.mp4"):
        with SegmentWriter(tmp_path / name, spec) as writer:
            for index in range(20):
                writer.write(stripes(index, 128, 96), index)
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


def test_av1_in_webm_gets_square_pixels(tmp_path: Path) -> None:
    def shape(target: av.container.OutputContainer, video: av.VideoStream) -> None:
        video.codec_context.sample_aspect_ratio = Fraction(4, 3)

    source = write_clip(tmp_path / "in.mp4", prepare=shape, width=48, height=24)
    result = upscale(source, tmp_path, container="webm", scale=2)
    video = probe(result.path).video
    assert (video.width, video.height, video.sample_aspect_ratio) == (128, 48, 1)
    assert any("not square" in warning for warning in result.warnings)
    video = probe(upscale(source, tmp_path, codec="av1", scale=2).path).video
    assert (video.width, video.height, video.sample_aspect_ratio) == (96, 48, Fraction(4, 3))


def test_sizes_below_an_encoders_minimum_are_refused_early(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "in.nut", width=1, height=5, codec="rawvideo", pixel_format="yuv444p"))
    for codec in ("hevc", "av1"):
        with pytest.raises(UnusableVideo, match=f"too small for {codec}"):
            output_spec(info, codec=codec, scale=2)
    assert output_spec(info, scale=2).encoder == "libx264"


@pytest.mark.parametrize(("container", "codec"), [("webm", "h264"), ("webm", "hevc"), ("mov", "av1")])
def test_container_and_codec_must_fit(container: str, codec: str) -> None:
    with pytest.raises(ValidationError, match=f"{container} can't hold {codec}"):
        JobOptions.model_validate({"container": container, "codec": codec})
    JobOptions.model_validate({"container": container})
