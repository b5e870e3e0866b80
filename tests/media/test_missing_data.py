"""Missing data: what a file lacks is said with numbers, and whole files raise no false alarm."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import av
import pytest

from media.errors import UnusableVideo
from media.jailed.decode import Decoder
from media.ledger import Missing, TrackLedger, track_warnings
from media.limits import DEFAULT_LIMITS
from tests.support.clips import make_clip
from tests.support.media import as_ts, stripes, upscale, write_clip


def decoded(path: Path) -> tuple[int, TrackLedger]:
    """Number of frames, and the ledger."""
    decoder = Decoder(path, DEFAULT_LIMITS)
    return sum(1 for _ in decoder.frames()), decoder.track


def cut(path: Path, whole: Path, part: float) -> Path:
    """The first part of a file."""
    data = whole.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    return path


def remux(source: Path, path: Path, **options: str) -> Path:
    """Copy all packets to another container."""
    with av.open(str(source)) as original, av.open(str(path), "w", container_options=options) as target:
        streams = [target.add_stream_from_template(stream) for stream in original.streams]
        for packet in original.demux():
            if packet.size:
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    return path


@pytest.mark.parametrize(("suffix", "known"), [("mp4", True), ("mkv", False), ("avi", False), ("flv", False)])
def test_a_file_that_breaks_off(tmp_path: Path, suffix: str, known: bool) -> None:
    codec = "mpeg4" if suffix == "avi" else "libx264"
    clip = write_clip(
        tmp_path / f"clip.{'avi' if suffix == 'avi' else 'mp4'}", times=range(100), width=64, height=48, codec=codec
    )
    whole = remux(clip, tmp_path / f"whole.{suffix}", **({"movflags": "+faststart"} if known else {}))
    assert decoded(whole)[1].flawless
    count, track = decoded(cut(tmp_path / f"cut.{suffix}", whole, 0.5))
    assert 10 < count < 80
    assert track.breaks_off
    sentence = next(iter(track_warnings(track)))
    assert f"breaks off: {count} frames of " in sentence
    lost = track.lost(Missing.CUT_OFF) + track.lost(Missing.UNDECODABLE)
    assert not known or count + lost == 100


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("mkv", {"live": "1"}),
        ("webm", {"live": "1"}),
        ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("mp4", {"movflags": "frag_keyframe"}),
        ("flv", {"flvflags": "no_duration_filesize"}),
        ("ts", {}),
    ],
)
def test_files_without_a_duration_raise_no_alarm(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    codec = {"webm": "libvpx-vp9"}.get(suffix, "libx264")
    clip = write_clip(tmp_path / ("clip.webm" if suffix == "webm" else "clip.mp4"), codec=codec, times=range(60))
    count, track = decoded(remux(clip, tmp_path / f"live.{suffix}", **options))
    assert count == 60
    assert list(track_warnings(track)) == []


def test_sound_outside_of_the_file_does_not_end_the_picture(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=50, sound=True)
    data = bytearray(clip.read_bytes())
    offsets = data.index(b"stco", data.index(b"soun"))
    (number,) = struct.unpack_from(">I", data, offsets + 8)
    for chunk in range(number):
        struct.pack_into(">I", data, offsets + 12 + 4 * chunk, len(data) + 100_000 + chunk)
    clip.write_bytes(data)
    result = upscale(clip, tmp_path)
    assert len(result.times) == 50
    assert [w for w in result.warnings if "Audio track 1" in w and "no data" in w]


def test_a_hole_in_one_track_of_mp4(tmp_path: Path) -> None:
    """One chunk of the picture lies outside of the file; the chunks after it are read."""
    clip = make_clip(tmp_path / "clip.mp4", frames=50, sound=True)
    data = bytearray(clip.read_bytes())
    offsets = data.index(b"stco", data.index(b"vide"))
    struct.pack_into(">I", data, offsets + 12 + 4 * 5, len(data) + 100_000)
    clip.write_bytes(data)
    count, track = decoded(clip)
    assert count < 50
    assert track.lost(Missing.CUT_OFF) >= 1
    assert count + sum(track.missing.values()) == 50


def test_frames_before_the_first_keyframe_are_counted(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=60)
    count, track = decoded(as_ts(clip, tmp_path / "cut.ts", without=3))
    assert count < 57
    assert count + sum(track.missing.values()) == 57
    assert track.read.frames == 57
    assert [w for w in track_warnings(track) if "missing" in w]


def test_a_fragment_without_most_frames_is_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", times=range(60), options={"g": "40", "sc_threshold": "0", "bf": "0"})
    with pytest.raises(UnusableVideo, match="of 59 frames are damaged or missing"):
        decoded(as_ts(clip, tmp_path / "cut.ts", without=1))


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("libvpx", "webm", {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good"}),
        ("libvpx-vp9", "webm", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("libx264", "mp4", {"bf": "3", "x264-params": "open-gop=1"}),
        ("mpeg4", "avi", {"bf": "2"}),
    ],
)
def test_hidden_and_reordered_frames_are_no_loss(
    tmp_path: Path, codec: str, suffix: str, options: dict[str, str]
) -> None:
    clip = write_clip(tmp_path / f"clip.{suffix}", codec=codec, times=range(50), options=options, width=64, height=48)
    count, track = decoded(clip)
    assert count == 50
    assert track.flawless


@pytest.mark.slow
def test_a_still_stretch_of_mpeg4_is_no_loss(tmp_path: Path) -> None:
    """Cameras store a repeated picture as a packet of a few bytes, from which the decoder gives no frame."""
    path = tmp_path / "still.avi"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        packets: list[Any] = []
        for index in range(10):
            frame = av.VideoFrame.from_ndarray(stripes(index, 64, 48), format="rgb24")
            frame.pts = index
            packets += video.encode(frame)
        for index, packet in enumerate([*packets, *video.encode(None)]):
            if index == 5:
                empty = av.Packet(b"\x00\x00\x01\xb6\x56\x00\x00")
                empty.stream, empty.time_base, empty.pts, empty.dts = video, packet.time_base, packet.pts, packet.dts
                packet = empty
            container.mux(packet)
    count, track = decoded(path)
    assert count == 9
    assert track.missing.get(Missing.NO_KEYFRAME) is None
