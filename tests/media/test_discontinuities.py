"""Discontinuities of transport streams are removed from all tracks together. Gaps of one track stay."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from av.packet import Packet

from media.demux.discontinuities import Discontinuities
from media.errors import OverLimit
from media.limits import Limits
from media.probe import probe
from tests.support.clips import make_clip
from tests.support.media import as_ts, packets, shown, upscale, write_clip

VIDEO, SOUND, TEXT = 0, 1, 2
SECOND: Final = 90_000


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_gap_of_hours_is_removed(tmp_path: Path, container: str) -> None:
    clip = make_clip(tmp_path / "part.mp4", frames=50, sound=True)
    source = tmp_path / "joined.ts"
    parts = [as_ts(clip, tmp_path / f"{hours}.ts", ahead=3600 * hours) for hours in (0, 5)]
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert (probe(source).duration_seconds or 0) == pytest.approx(4, abs=0.2)
    result = upscale(source, tmp_path, chunk=30, container=container)
    assert [w for w in result.warnings if "jump ahead" in w]
    times = shown(result.path)
    assert len(times) == 100
    assert all(abs(b - a - Fraction(1, 25)) < Fraction(1, 5) for a, b in pairwise(times))
    heard = [time for time, _ in packets(result.path, "audio")]
    assert all(a < b for a, b in pairwise(heard))
    # Picture and sound are in sync in the second part as in the first.
    apart = [times[50 * n] - heard[len(heard) // 2 * n] for n in (0, 1)]
    assert abs(apart[0] - apart[1]) <= Fraction(1, 500)


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_recording_begins_at_zero(tmp_path: Path, container: str) -> None:
    """Otherwise players show ten hours of nothing first."""
    source = as_ts(make_clip(tmp_path / "clip.mp4", frames=20, sound=True), tmp_path / "late.ts", ahead=36_000)
    result = upscale(source, tmp_path, chunk=8, container=container)
    before, after = ((shown(path), [time for time, _ in packets(path, "audio")]) for path in (source, result.path))
    assert before[0][0] >= 36_000
    assert 0 <= min(after[0][0], after[1][0]) < Fraction(1, 10)
    assert len(after[0]) == 20
    apart = [pictures[0] - sounds[0] for pictures, sounds in (before, after)]
    assert abs(apart[0] - apart[1]) <= Fraction(1, 500), "picture and sound stay in sync"
    assert result.warnings == ()


def test_a_stream_above_the_duration_limit_is_refused(tmp_path: Path) -> None:
    source = as_ts(make_clip(tmp_path / "clip.mp4", frames=75), tmp_path / "long.ts")
    with pytest.raises(OverLimit, match="SKIPVSR_MAX_DURATION_SECONDS"):
        probe(source, Limits(max_duration_seconds=2))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_picture_of_minutes_is_no_discontinuity(tmp_path: Path, suffix: str) -> None:
    source = write_clip(tmp_path / f"in.{suffix}", times=[0, 40, 600_000, 600_040], unit=Fraction(1, 1000))
    result = upscale(source, tmp_path)
    assert (shown(result.path), result.warnings) == ([0, Fraction(1, 25), 600, Fraction(15001, 25)], ())


def _moved(*times: tuple[int, float]) -> tuple[list[float], Discontinuities]:
    """Times without discontinuities of packets of one second, given as (stream, second)."""
    discontinuities: Any = Discontinuities(None)  # type: ignore[arg-type]  # the test provides the packets
    out = []
    for stream, second in times:
        packet: Any = Packet(b"x")
        packet.pts = packet.dts = round(second * SECOND)
        packet.duration = SECOND
        discontinuities.correct(stream, packet)
        out.append(packet.dts / SECOND)
    return out, discontinuities


def test_all_streams_follow_the_first_discontinuity() -> None:
    moved, discontinuities = _moved(
        (VIDEO, 0), (SOUND, 0.5), (VIDEO, 7200), (SOUND, 1.5), (VIDEO, 7201), (SOUND, 7200.5)
    )
    assert moved == [0, 0.5, 1.5, 1.5, 2.5, 2]
    assert discontinuities._latest.timeline.discontinuities == 1


def test_a_gap_of_one_stream_stays() -> None:
    minutes = [(VIDEO, float(second)) for second in range(1, 600, 30)]
    moved, discontinuities = _moved((SOUND, 0), (TEXT, 0), *minutes, (SOUND, 572), (TEXT, 573))
    assert moved == [0, 0, *(second for _, second in minutes), 572, 573]
    assert discontinuities._latest.timeline.discontinuities == 0


@pytest.mark.parametrize(("picture", "other"), [(36_000, 3_600), (3_600, 36_000)])
@pytest.mark.parametrize("picture_first", [True, False])
def test_another_programmes_clock_does_not_count(picture: int, other: int, picture_first: bool) -> None:
    """Otherwise MP4 loses the sound, or the result lasts hours."""
    order = [(VIDEO, picture), (SOUND, other)][:: 1 if picture_first else -1]
    moved, discontinuities = _moved(*((index, float(time + second)) for second in range(5) for index, time in order))
    assert moved == [time for second in range(5) for time in (second, second + 1)]
    assert discontinuities._positions[order[0][0]].timeline.discontinuities == 0


def test_a_discontinuity_after_a_restart() -> None:
    moved, discontinuities = _moved((VIDEO, 5000), (VIDEO, 0), (VIDEO, 1), (SOUND, 1), (SOUND, 9000), (VIDEO, 9000))
    assert moved == [0, -5000, -4999, -4999, -4998, -4998]
    assert discontinuities._latest.timeline.discontinuities == 1
