"""Old and odd formats: each is read with its frames, times and colours, or refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec import Codec, codecs_available

from media.demux.formats import CONTAINERS, OPTIONS, REFUSED_CONTAINERS, REFUSED_VIDEO_CODECS, VIDEO_DECODERS, WEBP
from media.demux.opening import search_log
from media.errors import MediaError, UnsupportedFile, UnusableVideo
from media.probe import probe
from media.reader import VideoReader
from tests.support.footage import FRAMES, KINDS, Kind, picture, write_kind
from tests.support.fuzz_corpus import headers, noise
from tests.support.media import upscale, write_clip

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_read(tmp_path: Path, kind: Kind) -> None:
    path = write_kind(tmp_path / f"in.{kind.suffix}", kind)
    assert probe(path).video.width == kind.width
    with VideoReader(path) as reader:
        frames = list(reader)
    assert len(frames) == FRAMES
    times = [float(25 * (frame.pts - frames[0].pts) * frame.time_base) for frame in frames]
    assert times == pytest.approx(range(FRAMES), abs=1e-6 if kind.even else 1.1)
    first = frames[0].rgb.astype(float) / (1 if frames[0].rgb.dtype == np.uint8 else 257)
    error = np.square(first - picture(0, kind.width, kind.height)).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > kind.decibels


def test_every_decoder_is_taken_or_refused_for_a_reason() -> None:
    refused = set(" ".join(REFUSED_VIDEO_CODECS.values()).split())
    devices = ("_amf", "_cuvid", "_qsv", "_v4l2m2m")
    decoders = {name for name in codecs_available if _decodes_video(name) and not name.endswith(devices)}
    assert decoders == VIDEO_DECODERS | (refused & decoders)
    assert not VIDEO_DECODERS & refused


def _decodes_video(name: str) -> bool:
    try:
        return Codec(name, "r").type == "video"
    except av.codec.codec.UnknownCodecError:
        return False


def test_no_accepted_container_opens_other_files() -> None:
    names = {part for name in CONTAINERS if name != WEBP for part in name.split(",")}
    assert not names & set(" ".join(REFUSED_CONTAINERS.values()).split())
    assert all(av.ContainerFormat(name, "r").is_input for name in names)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("sound.flac", b"fLaC\0\0\0\x22" + bytes(4000), r"type flac \(raw FLAC\) are not accepted"),
        ("still.png", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(4000), r"single picture \(PNG\), not a video"),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\na.ts\n", "not an accepted video format"),
        ("list.ffconcat", b"ffconcat version 1.0\nfile 'a.mp4'\n", r"type concat .* are not accepted"),
        ("art.xbin", b"XBIN\x1a" + bytes(4000), "not an accepted video format"),
        ("broken.mkv", b"\x1aE\xdf\xa3\x8bB\x82\x88matroska" + bytes(40), "looks like Matroska, but its header"),
    ],
)
def test_refused_containers_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UnsupportedFile, match=message):
        probe(path)


def test_refused_codecs_are_named(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.avi", codec="zmbv", pixel_format="bgr0")
    clip.write_bytes(clip.read_bytes().replace(b"ZMBV", b"QxQy"))
    with pytest.raises(UnsupportedFile, match="codec QxQy is not accepted"):
        probe(clip)


def test_a_single_picture_is_no_animation(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.gif", codec="gif", pixel_format="bgr8", times=[0], width=64, height=48)
    with pytest.raises(UnusableVideo, match="GIF is a single picture"):
        probe(clip)


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format", "seconds"), [("gif", "gif", "bgr8", 6.66), ("apng", "apng", "rgb24", 4.32)]
)
def test_delays_and_repetitions_of_animations(
    tmp_path: Path, suffix: str, codec: str, pixel_format: str, seconds: float
) -> None:
    """The last picture stays as long as its delay says: 2.5 s in the GIF; libav's APNG repeats the delay before."""
    times = [0, 4, 20, 100, 104]
    clip = write_clip(
        tmp_path / f"clip.{suffix}", codec=codec, pixel_format=pixel_format, times=times, width=64, height=48
    )
    if suffix == "gif":
        data = bytearray(clip.read_bytes())
        struct.pack_into("<H", data, data.rindex(b"!\xf9\x04") + 4, 250)
        clip.write_bytes(data)
    result = upscale(clip, tmp_path)
    unit = result.info.video.time_base
    assert [25 * (pts - result.times[0]) * unit for pts in result.times] == times
    assert ("The animation repeats endlessly; the result plays once." in result.warnings) == (suffix == "gif")
    with av.open(str(result.path)) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(seconds, abs=0.001)  # type: ignore[operator]


def test_formats_without_a_conversion_are_refused(tmp_path: Path) -> None:
    """A packed format of 4 bits, which swscale writes, but does not read."""
    clip = write_clip(tmp_path / "clip.nut", codec="rawvideo", pixel_format="rgb4")
    with pytest.raises(MediaError, match="pixel format rgb4"):
        probe(clip)


def test_the_fuzzers_noise_reaches_the_decoders_and_demuxers(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for path in noise(tmp_path, random):
        with av.open(str(path)) as container:
            name = container.streams.video[0].codec_context.name.replace("libdav1d", "av1")
        assert name == path.stem.removeprefix("noise-")
    for path in headers(tmp_path, random):
        assert search_log(f"file:{path}", OPTIONS, r"^Format (\S+) ") == path.stem.removeprefix("header-")
