"""Fields of interlaced video as frames, film out of soft telecine, and hard telecine by name."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from benchmarks.footage.facts import file_facts
from media.demux.telecine import SoftTelecine, film_rate
from media.probe import probe
from media.reader import VideoReader
from media.spec import output_spec
from tests.support.fields import FILM, bar, hard_telecine, interlaced_clip, moving, soft_telecine, write_interlaced
from tests.support.media import shown, upscale, write_clip


def _read(source: Path, *, fields: bool = True, **more: Any) -> list[tuple[Fraction, float]]:
    """Time in seconds, and place of the moving bar, of each frame."""
    with VideoReader(source, fields=fields, **more) as reader:
        return [(frame.pts * frame.time_base, bar(frame.rgb)) for frame in reader]


@pytest.mark.parametrize("top_first", [True, False])
@pytest.mark.parametrize(("name", "codec"), [("in.mp4", "libx264"), ("in.mkv", "libx264"), ("in.ts", "mpeg2video")])
def test_each_field_becomes_a_frame(tmp_path: Path, name: str, codec: str, top_first: bool) -> None:
    source = interlaced_clip(tmp_path / name, codec=codec, top_first=top_first)
    frames = _read(source)
    start = frames[0][0]
    assert [time - start for time, _ in frames] == [Fraction(n, 50) for n in range(24)]
    # The bar moves by three pixels in each field.
    assert all(2 <= after - before <= 4 for (_, before), (_, after) in pairwise(frames[:22]))


def test_two_fields_become_one_frame_by_default(tmp_path: Path) -> None:
    source = interlaced_clip(tmp_path / "in.mp4")
    frames = _read(source, fields=False)
    assert [time for time, _ in frames] == [Fraction(n, 25) for n in range(12)]
    info = probe(source)
    assert info.video.output_frames == 12
    assert "one frame for two fields" in info.warnings[0]
    assert (output_spec(info).frame_rate, output_spec(info).time_base) == (25, info.video.time_base)


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
def test_fifty_fields_are_fifty_frames_a_second(tmp_path: Path, container: str) -> None:
    source = interlaced_clip(tmp_path / "in.mp4", sound=True)
    info = probe(source, fields=True)
    assert info.video.output_frames == 24
    assert "one frame for each field" in info.warnings[0]
    result = upscale(source, tmp_path, container=container, fields=True)
    facts = file_facts(result.path, decode=True)
    assert facts.picture is not None
    assert facts.picture.average_rate == "50"
    assert facts.picture.times == [Fraction(n, 50) for n in range(24)]
    assert facts.picture.end == Fraction(24, 50)
    before = file_facts(source, decode=True)
    assert abs((facts.offset or 0) - (before.offset or 0)) <= Fraction(1, 1000)


def test_second_fields_are_halfway_to_the_next_frame(tmp_path: Path) -> None:
    times = [0, 1, 2, 5, 6, 9]
    source = write_interlaced(tmp_path / "in.mkv", [moving(n) for n in range(12)], Fraction(10), times=times)
    seen = [time for time, _ in _read(source)]
    assert seen == [Fraction(n, 20) for n in (0, 1, 2, 3, 4, 7, 10, 11, 12, 15, 18, 21)]


def test_reading_again_after_a_field_gives_the_rest(tmp_path: Path) -> None:
    source = interlaced_clip(tmp_path / "in.mkv", 20)
    with VideoReader(source, fields=True) as reader:
        every = list(reader)
    assert not every[-1].clean, "a deinterlacer that begins later has not seen the fields before"
    for done in (4, 5, 19):
        with VideoReader(source, start_after_pts=every[done].pts, fields=True) as reader:
            rest = list(reader)
        assert [frame.pts for frame in rest] == [frame.pts for frame in every[done + 1 :]]
        assert all((a.rgb == b.rgb).all() for a, b in zip(rest, every[done + 1 :], strict=True))


def test_progressive_video_keeps_its_frames_and_times(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", times=[0, 2, 3, 7, 8, 12, 13], options={"g": "3"})
    info = probe(source, fields=True)
    assert info.video.output_frames == info.video.frames
    assert output_spec(info).frame_rate == output_spec(probe(source)).frame_rate
    result = upscale(source, tmp_path, fields=True)
    assert shown(result.path) == shown(source)
    ends = [
        facts.picture.end for facts in (file_facts(p, decode=False) for p in (source, result.path)) if facts.picture
    ]
    assert ends[0] == ends[1]
    with VideoReader(source, fields=True) as reader:
        every = list(reader)
    assert every[4].clean
    with VideoReader(source, start_after_pts=every[4].pts, frames_before=5, fields=True) as reader:
        assert [frame.pts for frame in reader] == [frame.pts for frame in every[5:]]


@pytest.mark.parametrize("name", ["in.ts", "in.mkv", "in.vob"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_soft_telecine_gives_film_frames(tmp_path: Path, name: str, b_frames: int) -> None:
    source = soft_telecine(tmp_path / name, b_frames=b_frames, noise=30)
    info = probe(source)
    assert info.video.film
    assert not info.video.interlaced
    assert info.video.frame_rate == FILM
    assert "film with soft telecine" in info.warnings[0]
    for fields in (False, True):
        frames = _read(source, fields=fields)
        assert len(frames) == 48
        assert all(2 <= after - before <= 4 for (_, before), (_, after) in pairwise(frames[:25]))
        steps = [after - before for (before, _), (after, _) in pairwise(frames)]
        assert all(abs(step - 1 / FILM) < Fraction(15, 10000) for step in steps), steps


def test_film_has_the_films_rate_in_the_result(tmp_path: Path) -> None:
    result = upscale(soft_telecine(tmp_path / "in.ts"), tmp_path)
    facts = file_facts(result.path, decode=False)
    assert facts.picture is not None
    assert abs(Fraction(facts.picture.average_rate or 0) / FILM - 1) < Fraction(1, 10000)
    assert abs((facts.picture.end or 0) - facts.picture.times[0] - 48 / FILM) < Fraction(1, 1000)


def test_progressive_mpeg2_is_not_film(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.ts", codec="mpeg2video", width=96, height=64, times=range(40))
    info = probe(source)
    assert not info.video.film
    assert info.video.frame_rate == 25


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(60000, 1001), FILM, Fraction(2997, 125)])
def test_the_films_rate_follows_from_the_header(rate: Fraction) -> None:
    assert film_rate(rate) == FILM
    assert film_rate(Fraction(30)) == film_rate(Fraction(60)) == 24
    assert film_rate(None) == FILM


def _frame(pts: int) -> av.VideoFrame:
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.pts = pts
    return frame


def test_times_without_flags_stay() -> None:
    film = SoftTelecine(Fraction(1, 1000), mpeg2=True)
    times = [0, 50, 83, 133, 167]
    assert [frame.pts for frame in film(map(_frame, times))] == times
    assert not film.active


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_hard_telecine_is_named(tmp_path: Path, codec: str) -> None:
    source = hard_telecine(tmp_path / "in.mkv", codec=codec)
    with VideoReader(source) as reader:
        assert len(list(reader)) == 60
    (warning,) = reader.warnings
    assert "hard telecine" in warning


def test_interlaced_video_is_not_taken_for_telecine(tmp_path: Path) -> None:
    with VideoReader(interlaced_clip(tmp_path / "in.mkv", 60)) as reader:
        assert len(list(reader)) == 60
    assert reader.warnings == ()
