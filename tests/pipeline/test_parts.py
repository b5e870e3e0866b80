"""A video in parts: where the parts begin, and that joined parts equal the whole video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from jobs.figures import Figures
from jobs.schema import JobOptions
from media.reader import Frame
from model.engine.loading import load_model
from model.engine.upscaler import Upscaler
from pipeline.events import ChunkDone, Event, Finished, PartDone
from pipeline.parts import WARM_UP, Part, Plan, Scan, parts_of
from pipeline.splitting import is_joined, join, plan, scan
from pipeline.task import UpscaleTask
from pipeline.upscale import upscale
from tests.support.clips import make_clip, make_scenes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    return load_model("tiny", weights_dir=tmp_path_factory.mktemp("weights"), device="cpu", precision="fp32", threads=1)


def task(clip: Path, folder: Path, **options: object) -> UpscaleTask:
    folder.mkdir()
    given = {"model": "tiny", "chunk": 4, "lookahead": 2, **options}
    return UpscaleTask(clip, folder, JobOptions.model_validate(given))


def planned(work: UpscaleTask, model: Upscaler, count: int) -> Plan | None:
    steps = plan(work, model, count=count)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Plan | None = end.value
            return found


def last(events: Iterator[Event]) -> Event:
    *_, event = events
    return event


def part_task(work: UpscaleTask, made: Plan, number: int) -> UpscaleTask:
    folder = work.folder if number == 0 else work.folder.with_name(f"{work.folder.name}-{number}")
    folder.mkdir(exist_ok=True)
    own = {"part": made.parts[number], "chunk": made.chunk, "encoder_threads": made.encoder_threads}
    return replace(work, folder=folder, **own)


def in_parts(work: UpscaleTask, model: Upscaler, made: Plan) -> Finished:
    """The result of all parts, the last one first."""
    made.save(work.folder)
    tasks = [part_task(work, made, number) for number in range(len(made.parts))]
    for each in reversed(tasks):
        assert isinstance(last(upscale(each, model)), PartDone)
    assert not is_joined(work.folder)
    join(made, work.folder, [each.folder for each in tasks[1:]])
    assert is_joined(work.folder)
    finished = last(upscale(work, model))
    assert isinstance(finished, Finished)
    return finished


@pytest.mark.parametrize(("chunk", "lookahead"), [(4, 2), (5, 0), (12, 7)])
def test_parts_behind_scene_cuts_give_the_bytes_of_the_whole_video(
    model: Upscaler, tmp_path: Path, chunk: int, lookahead: int
) -> None:
    clip = make_scenes(tmp_path / "clip.mp4", frames=90, cuts=(20, 33, 47, 61, 70))
    options = {"chunk": chunk, "lookahead": lookahead}
    whole = last(upscale(task(clip, tmp_path / "whole", **options), model))
    assert isinstance(whole, Finished)
    work = task(clip, tmp_path / "work", **options)
    made = planned(work, model, 3)
    assert made is not None
    assert len(made.parts) == 3
    assert made.seams == (2, 0)
    finished = in_parts(work, model, made)
    assert finished.path.read_bytes() == whole.path.read_bytes()
    assert finished.metrics.cuts == whole.metrics.cuts == [20, 33, 47, 61, 70]
    assert (finished.progress.frames_done, finished.progress.frames_saved) == (90, 90)
    assert finished.metrics.skip_ratio == whole.metrics.skip_ratio
    assert len(finished.metrics.chunk_seconds) == len(whole.metrics.chunk_seconds)
    ours, theirs = Figures.read(work.folder), Figures.read(tmp_path / "whole")
    assert ours is not None
    assert theirs is not None
    assert [chunk.first for chunk in ours.chunks] == [chunk.first for chunk in theirs.chunks]
    assert list(ours.maps()) == list(theirs.maps())


def test_a_warm_up_replaces_the_frames_before_a_part_without_a_cut(model: Upscaler, tmp_path: Path) -> None:
    """The frames have the same number and times; only frames behind the seam may differ."""
    clip = make_clip(tmp_path / "clip.mp4", frames=80, sound=True)
    work = task(clip, tmp_path / "work", routing="off")
    made = planned(work, model, 2)
    assert made is not None
    assert made.seams == (0, 1)
    assert (made.parts[1].first, made.parts[1].warm_up) == (40, WARM_UP)
    whole = last(upscale(task(clip, tmp_path / "whole", routing="off"), model))
    assert isinstance(whole, Finished)
    finished = in_parts(work, model, made)
    assert finished.progress.frames_done == 80
    before = [(work.folder / f"segment-{n:06d}.mp4").read_bytes() for n in range(10)]
    assert before == [(whole.path.parent / f"segment-{n:06d}.mp4").read_bytes() for n in range(10)]


def test_a_part_resumes_with_the_same_bytes_and_reads_no_frame_twice(model: Upscaler, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=80)
    work, again = task(clip, tmp_path / "work"), task(clip, tmp_path / "again")
    made = planned(work, model, 2)
    assert made is not None
    first = in_parts(work, model, made)
    events = upscale(part_task(again, made, 1), model)
    for event in events:
        if isinstance(event, ChunkDone) and event.number == 3:
            break
    events.close()
    assert [event.number for event in upscale(part_task(again, made, 1), model) if isinstance(event, ChunkDone)] == [
        *range(4, 10)
    ]
    assert in_parts(again, model, made).path.read_bytes() == first.path.read_bytes()


def test_a_job_that_has_begun_without_a_plan_gets_none(model: Upscaler, tmp_path: Path) -> None:
    work = task(make_clip(tmp_path / "clip.mp4", frames=40), tmp_path / "work")
    events = upscale(work, model)
    next(event for event in events if isinstance(event, ChunkDone))
    events.close()
    assert planned(work, model, 2) is None


def scanned(frames: int, cuts: tuple[int, ...] = (), clean: int | None = None) -> Scan:
    return Scan(range(100, 100 + 2 * frames, 2), frames if clean is None else clean, cuts)


def test_only_the_frames_before_the_first_fault_are_clean(model: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seek past a frame that is not clean may give other frames, also if later frames are clean."""
    rgb = np.zeros((8, 8, 3), np.uint8)
    frames = [Frame(rgb, number, Fraction(1), clean=number != 1) for number in range(40)]
    monkeypatch.setattr("pipeline.splitting.VideoReader", lambda *_, **__: nullcontext(frames))
    steps, found = scan(UpscaleTask(Path("clip"), Path("work"), JobOptions()), None, model.device), None
    while found is None:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
    assert (found.clean, len(found.pts)) == (1, 40)


def borders(parts: list[Part]) -> list[tuple[int, int, bool]]:
    return [(part.first, part.warm_up, part.exact) for part in parts]


def test_borders_lie_behind_the_cuts_nearest_to_equal_parts() -> None:
    parts = parts_of(scanned(3000, (90, 1010, 1300, 2100)), count=3, chunk=24, lookahead=4, least=48)
    assert borders(parts) == [(0, 0, True), (1032, 23, True), (2112, 13, True)]
    assert [part.frames for part in parts] == [1032, 1080, None]
    assert parts[1].after == 100 + 2 * 1008


def test_borders_without_cuts_have_a_warm_up() -> None:
    parts = parts_of(scanned(1000), count=2, chunk=24, lookahead=4, least=48)
    assert borders(parts) == [(0, 0, True), (504, WARM_UP, False)]


def test_a_part_may_be_nearly_twice_as_long_before_a_border_without_a_cut() -> None:
    cuts = (360, 960, 1200, 1920, 2400, 2760)
    parts = parts_of(scanned(3000, cuts), count=6, chunk=24, lookahead=4, least=240)
    assert [part.first for part in parts] == [0, 360, 960, 1920, 2400]
    assert all(part.exact for part in parts)
    parts = parts_of(scanned(3000, (600,)), count=5, chunk=24, lookahead=4, least=240)
    assert [(part.first, part.exact) for part in parts] == [
        *[(0, True), (600, True), (1200, False), (1800, False), (2400, False)]
    ]


def test_a_cut_at_the_border_needs_one_frame() -> None:
    parts = parts_of(scanned(1000, (480,)), count=2, chunk=24, lookahead=4, least=48)
    assert borders(parts)[1] == (480, 1, True)


def test_a_part_behind_a_fault_is_decoded_from_the_start() -> None:
    parts = parts_of(scanned(1000, (480,), clean=300), count=2, chunk=24, lookahead=4, least=48)
    assert [part.clean for part in parts] == [False, False]
    assert parts_of(scanned(1000, clean=480), count=2, chunk=24, lookahead=4, least=48)[1].clean


def test_a_warm_up_from_the_first_frame_on_is_exact() -> None:
    parts = parts_of(scanned(40), count=2, chunk=4, lookahead=2, least=16)
    assert borders(parts) == [(0, 0, True), (20, 20, True)]


def test_short_videos_have_fewer_parts() -> None:
    assert len(parts_of(scanned(200), count=8, chunk=24, lookahead=4, least=48)) == 4
    assert len(parts_of(scanned(40), count=8, chunk=4, lookahead=30, least=0)) == 1
    assert len(parts_of(scanned(0), count=8, chunk=4, lookahead=30, least=0)) == 1
