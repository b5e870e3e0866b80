"""Files that are no videos, or exceed a limit, are refused with a reason."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from media.errors import DecoderCrashed, MediaError, OverLimit, UnsupportedFile, UnusableVideo
from media.limits import Limits
from media.probe import probe
from media.reader import VideoReader
from tests.support.hostile import TEXTS, many_streams, million_frames, png, png_video, sound_only, write_video
from tests.support.media import upscale, write_clip

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", times=range(24), width=64, height=48)


@pytest.mark.parametrize("name", TEXTS)
def test_files_without_video_are_refused(tmp_path: Path, name: str) -> None:
    file, data = TEXTS[name]
    path = tmp_path / file
    path.write_bytes(data)
    with pytest.raises((UnsupportedFile, UnusableVideo)) as refused:
        probe(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) > 15
    assert [p.name for p in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize(("front", "more"), [(False, -5), (True, 400), (False, 700)])
def test_a_cut_off_mp4_is_named(tmp_path: Path, front: bool, more: int) -> None:
    """A download that stopped: inside the pictures, or inside an index in front of them or behind them."""
    whole = write_video(tmp_path / "whole.mp4", faststart=front)
    data = whole.read_bytes()
    whole.write_bytes(data[: data.index(b"moov") + more])
    with pytest.raises(UnsupportedFile, match=r"looks like MP4, .* the download or the recording broke off"):
        probe(whole)


def test_a_recorder_that_lost_its_power_is_named(tmp_path: Path) -> None:
    """Recorders write the length of the pictures at the end."""
    whole = write_video(tmp_path / "whole.mp4")
    data = bytearray(whole.read_bytes())
    at = data.index(b"mdat") - 4
    data[at : at + 4] = bytes(4)
    whole.write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(UnsupportedFile, match="the download or the recording broke off"):
        probe(whole)


def test_names_that_look_like_protocols_are_files(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = Path("concat:clip.mp4|clip.mp4")
    odd.write_bytes(clip.read_bytes())
    assert probe(odd).video.frames == 24
    with pytest.raises(FileNotFoundError):
        probe(Path("http:example"))


def test_a_wrong_extension_does_not_matter(tmp_path: Path, clip: Path) -> None:
    renamed = clip.rename(tmp_path / "clip.txt")
    assert upscale(renamed, tmp_path).info.container == "mp4"


@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        (Limits(max_upload_bytes=100), "max_upload_bytes"),
        (Limits(max_pixels=64 * 48 - 1), "max_pixels"),
        (Limits(max_duration_seconds=0.5), "max_duration_seconds"),
        (Limits(max_frames=10), "max_frames"),
        (Limits(max_streams=0), "max_streams"),
        (Limits(max_probe_memory_bytes=64 * 2**20), "max_probe_memory_bytes"),
    ],
)
def test_every_limit_names_its_setting(clip: Path, limits: Limits, setting: str) -> None:
    with pytest.raises((OverLimit, DecoderCrashed)) as refused:
        probe(clip, limits)
    if isinstance(refused.value, OverLimit):
        assert refused.value.setting == setting
        assert f"SKIPVSR_{setting.upper()}" in str(refused.value)
    else:
        assert setting == "max_probe_memory_bytes"


def test_frames_are_counted_where_the_header_lies(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", times=range(24))
    assert probe(clip).video.frames is None
    with (
        pytest.raises(OverLimit, match="SKIPVSR_MAX_FRAMES"),
        VideoReader(clip, limits=Limits(max_frames=10)) as reader,
    ):
        list(reader)


@pytest.mark.parametrize("side", [16384, 30000])
def test_a_decompression_bomb_takes_no_memory_here(tmp_path: Path, side: int) -> None:
    bomb = tmp_path / "bomb.mov"
    png_video(bomb, [png(side, side)])
    assert bomb.stat().st_size < 400_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((OverLimit, UnusableVideo)):
        probe(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_frame_that_grows_is_stopped(tmp_path: Path) -> None:
    """The first frame is small, the second exceeds the limit."""
    path = tmp_path / "grows.mov"
    png_video(path, [png(64, 64), png(4000, 4000)])
    with pytest.raises(OverLimit, match="SKIPVSR_MAX_PIXELS"), VideoReader(path) as reader:
        list(reader)


def test_a_million_frames_of_nothing(tmp_path: Path) -> None:
    """A header that claims a million frames is refused before a frame is decoded."""
    million_frames(tmp_path / "clip.mp4")
    with pytest.raises(MediaError):
        probe(tmp_path / "clip.mp4")


def test_promised_frames_take_little_memory(tmp_path: Path) -> None:
    """A file of 3 kB that promises forty million frames; libav reserves an index entry for each of them."""
    bomb = tmp_path / "clip.mp4"
    million_frames(bomb, 40_000_000)
    assert bomb.stat().st_size < 10_000
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with pytest.raises(OverLimit, match="40000000 frames; the limit is 1000000"):
        probe(bomb)
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert after == before or after < 400_000


def test_forty_streams(tmp_path: Path) -> None:
    many_streams(tmp_path / "many.mkv")
    with pytest.raises(OverLimit, match="SKIPVSR_MAX_STREAMS"):
        probe(tmp_path / "many.mkv")


def test_sound_only(tmp_path: Path) -> None:
    sound_only(tmp_path / "sound.mp4")
    with pytest.raises(UnusableVideo, match="only sound"):
        probe(tmp_path / "sound.mp4")
