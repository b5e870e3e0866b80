"""The last frame keeps its duration, also if segments are encoded separately."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.demux.last_frame import frame_duration
from media.limits import DEFAULT_LIMITS, Limits
from media.probe import probe
from tests.support.media import shown, stripes, upscale, write_clip


def _slides(path: Path, b_frames: int) -> Path:
    """Pictures with timestamps in milliseconds. The last one lasts from 4.5 s to 8 s."""
    times, unit = [0, 1000, 2000, 2500, 4000, 4500], Fraction(1, 1000)
    scale = {} if path.suffix == ".mkv" else {"video_track_timescale": "1000"}
    with av.open(str(path), "w", container_options=scale) as container:
        video: Any = container.add_stream("libx264", rate=25, options={"bf": str(b_frames)})
        video.width, video.height, video.pix_fmt = 32, 24, "yuv420p"
        video.time_base = video.codec_context.time_base = unit
        packets: list[Any] = []
        for index, pts in enumerate(times):
            frame = av.VideoFrame.from_ndarray(stripes(index, 32, 24), format="rgb24")
            frame.pts, frame.time_base = pts, unit
            packets += video.encode(frame)
        for packet in [*packets, *video.encode(None)]:
            packet.duration = 3500 if packet.pts == times[-1] else 0
            container.mux(packet)
    return path


@pytest.mark.parametrize("chunk", [3, 15])  # only with 15, the last frame is also the last one in coding order
@pytest.mark.parametrize(("suffix", "b_frames"), [("mp4", 0), ("mp4", 2), ("mkv", 2)])
@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
def test_the_last_frame_is_shown_as_long_as_in_the_source(
    tmp_path: Path, container: str, suffix: str, b_frames: int, chunk: int
) -> None:
    source = _slides(tmp_path / f"in.{suffix}", b_frames)
    result = upscale(source, tmp_path, chunk=chunk, container=container)
    assert shown(result.path) == shown(source)
    assert probe(result.path).duration_seconds == 8
    if container != "mkv":
        with av.open(str(result.path)) as opened:
            assert sum(packet.duration or 0 for packet in opened.demux(video=0)) == 8000


def test_transport_streams_have_no_frame_durations(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.ts", container_format="mpegts", unit=Fraction(1, 25))
    assert frame_duration(source, 0, DEFAULT_LIMITS) is None
    assert len(upscale(source, tmp_path).times) == 12


def test_an_implausible_frame_duration_is_ignored(tmp_path: Path) -> None:
    source = _slides(tmp_path / "in.mp4", 0)
    assert frame_duration(source, 4500, DEFAULT_LIMITS) == 3500
    assert frame_duration(source, 4500, Limits(max_duration_seconds=3)) is None
    assert frame_duration(source, 4501, DEFAULT_LIMITS) is None, "no frame has this timestamp"


def _still_with_sound(path: Path, pictures: int, seconds: int) -> Path:
    """A programme stream or AVI file with a few pictures, and sound that goes on."""
    with av.open(str(path), "w", format="vob" if path.suffix == ".vob" else None) as container:
        video: Any = container.add_stream("mpeg2video", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound: Any = container.add_stream("mp2", rate=48000, layout="stereo")
        packets: list[Any] = []
        for index in range(pictures):
            frame = av.VideoFrame.from_ndarray(stripes(index, 64, 48), format="rgb24")
            frame.pts = index
            packets += video.encode(frame)
        packets += video.encode(None)
        for at in range(0, seconds * 48000, 1152):
            block = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 1152), np.int16), "s16", "stereo")
            block.sample_rate, block.pts, block.time_base = 48000, at, Fraction(1, 48000)
            packets += sound.encode(block)
        packets += sound.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


@pytest.mark.parametrize(("suffix", "pictures"), [("vob", 1), ("vob", 10), ("ts", 10), ("avi", 10)])
def test_the_last_picture_stays_until_the_sound_ends(tmp_path: Path, suffix: str, pictures: int) -> None:
    source = _still_with_sound(tmp_path / f"in.{suffix}", pictures, 3)
    result = upscale(source, tmp_path)
    assert len(result.times) == pictures
    with av.open(str(result.path)) as opened:
        video = opened.streams.video[0]
        assert float((video.duration or 0) * (video.time_base or 0)) == pytest.approx(3, abs=0.15)


def test_the_last_frame_of_a_file_that_breaks_off_does_not_fill_the_rest(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", times=range(100), width=64, height=48)
    with (
        av.open(str(source)) as original,
        av.open(str(tmp_path / "front.mp4"), "w", container_options={"movflags": "+faststart"}) as target,
    ):
        stream = target.add_stream_from_template(original.streams.video[0])
        for packet in original.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "front.mp4").read_bytes()
    source.write_bytes(data[: len(data) // 2])
    result = upscale(source, tmp_path)
    assert probe(result.path).duration_seconds == pytest.approx(len(result.times) / 25, abs=0.05)
