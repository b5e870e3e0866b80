"""Concatenated files and repeated timestamps: no frame is lost, and no two frames have one timestamp."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from av.packet import Packet

from media.assemble import assemble
from media.demux.monotonic import MonotonicTimestamps, SubtitleTimestamps
from media.encode.segment import SegmentWriter
from media.probe import probe
from media.spec import output_spec
from tests.support.clips import make_clip
from tests.support.media import as_ts, packets, shown, stripes, upscale, write_clip


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm"])
def test_concatenated_parts_follow_one_another(tmp_path: Path, container: str) -> None:
    part = as_ts(make_clip(tmp_path / "part.mp4", frames=50, sound=True), tmp_path / "part.ts").read_bytes()
    source = tmp_path / "joined.ts"
    source.write_bytes(part + part)
    result = upscale(source, tmp_path, chunk=30, container=container)
    assert len([w for w in result.warnings if "start over" in w]) == 2  # for picture and sound
    times = shown(result.path)
    assert len(times) == 100
    assert all(abs(b - a - Fraction(1, 25)) <= Fraction(1, 1000) for a, b in pairwise(times))
    heard = [time for time, _ in packets(result.path, "audio")]
    assert all(a < b for a, b in pairwise(heard))
    # AAC pads the sound of each part: four packets of 64 ms in both parts.
    assert abs((heard[-1] - heard[0]) - (times[-1] - times[0])) < 0.3


def _with_signs(source: Path, path: Path) -> Path:
    """A silent transport stream with DVB subtitles at 0.5 and 1.5 s."""
    with av.open(str(source)) as original, av.open(str(path), "w", format="mpegts") as target:
        video = target.add_stream_from_template(original.streams.video[0])
        signs: Any = target.add_mux_stream("dvb_subtitle")
        times = [500, 1500]
        for packet in original.demux(video=0):
            if packet.size and packet.dts is not None:
                if times and packet.dts * packet.time_base * 1000 >= times[0]:
                    sign: Any = Packet(b"\x20\x00\x0f\x10\x00\x01\x00\x02\x00\x00\xff")
                    sign.time_base, sign.stream, sign.pts = Fraction(1, 1000), signs, times.pop(0)
                    sign.dts = sign.pts
                    target.mux(sign)
                packet.stream = video
                target.mux(packet)
    return path


def test_subtitles_without_sound_go_along_with_the_picture(tmp_path: Path) -> None:
    part = _with_signs(make_clip(tmp_path / "part.mp4", frames=50), tmp_path / "part.ts")
    source = tmp_path / "joined.ts"
    source.write_bytes(part.read_bytes() * 3)
    result = upscale(source, tmp_path, chunk=30, container="mkv")
    pictures, signs = shown(result.path), [time for time, _ in packets(result.path, "subtitles")]
    parts = [(pictures[50 * n], signs[2 * n : 2 * n + 2]) for n in range(3)]
    apart = [[time - begin for time in times] for begin, times in parts]
    assert len(apart[0]) == 2
    assert all(abs(a - b) <= Fraction(1, 100) for later in apart[1:] for a, b in zip(apart[0], later, strict=True))


def test_a_subtitle_before_the_pictures_restart_waits() -> None:
    times, unit = SubtitleTimestamps(), Fraction(1, 90_000)
    moved = []
    for dts, shift in ((90_000, 0), (270_000, 0), (1000, 0), (2000, 3), (90_000, 3)):
        packet = _packet(dts, unit)
        times.follow(packet, Fraction(shift))
        moved.append(packet.pts)
    assert moved == [90_000, 270_000, 270_000, 272_000, 360_000]


def _packet(dts: int, unit: Fraction) -> Packet:
    packet = Packet(b"x")
    packet.time_base, packet.pts, packet.dts, packet.duration = unit, dts, dts, 1920
    return packet


def test_packets_with_repeated_timestamps_are_dropped() -> None:
    times = MonotonicTimestamps()
    ticks = [0, 1920, 1920, 3840, 1000, 5760]
    assert [t for t in ticks if times.admit(_packet(t, Fraction(1, 90_000)))] == [0, 1920, 3840, 5760]
    assert (times.dropped, times.shift) == (2, 0)


def test_short_packets_share_a_millisecond() -> None:
    times = MonotonicTimestamps()
    assert all(times.admit(_packet(t, Fraction(1, 1000))) for t in (0, 1, 1, 2))
    assert times.dropped == 0


def test_timestamps_start_over_more_than_once() -> None:
    times, unit = MonotonicTimestamps(), Fraction(1, 90_000)
    moved = []
    for dts in (90_000, 270_000, 90_000, 270_000, 90_000):
        packet = _packet(dts, unit)
        assert times.admit(packet)
        moved.append(packet.pts)
    assert moved == [90_000, 270_000, 271_920, 451_920, 453_840]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_segments_before_zero_keep_their_times(tmp_path: Path, container: str) -> None:
    source = write_clip(tmp_path / "in.mkv", times=tuple(range(20)))
    spec = output_spec(probe(source, target=container), scale=1)
    step = round(1 / (spec.frame_rate * spec.time_base))
    segments = []
    for first in (-12, -7, -2, 3):  # the first two segments end before zero
        segments.append(tmp_path / f"{first}.mp4")
        with SegmentWriter(segments[-1], spec) as writer:
            for index in range(first, first + 5):
                writer.write(stripes(index, 32, 24), index * step)
    out = tmp_path / f"out.{container}"
    assemble(segments, source, out, spec)
    times = shown(out)
    assert len(times) == 20, "no edit list hides the frames before zero"
    assert all(abs(b - a - Fraction(1, 25)) <= Fraction(1, 1000) for a, b in pairwise(times))
