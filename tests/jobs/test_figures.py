"""The files of a job's figures: written chunk by chunk, read at any time, cut back to a checkpoint."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from jobs.errors import JobFailed
from jobs.figures import FIGURES, SKIPMAP, Figures, FiguresWriter
from jobs.storage import Storage
from tests.support.figures import FACTS, SHAPE, chunk, maps


def written(folder: Path, *frames: int) -> FiguresWriter:
    """Write chunks of these numbers of frames."""
    writer, first = FiguresWriter(folder, FACTS, 0), 0
    for count in frames:
        writer.add(chunk(first, count), maps(first, count))
        first += count
    return writer


def read(folder: Path) -> Figures:
    figures = Figures.read(folder)
    assert figures is not None
    return figures


@pytest.mark.parametrize(("first", "count"), [(0, None), (0, 3), (2, 4), (5, 1), (8, 9), (9, 5), (40, 2)])
def test_the_maps_of_any_frames_are_read(tmp_path: Path, first: int, count: int | None) -> None:
    written(tmp_path, 4, 1, 4)
    expected = maps(0, 9)[first : None if count is None else first + count]
    assert list(read(tmp_path).maps(first, count)) == expected


def test_a_page_names_its_shape_and_the_frames_so_far(tmp_path: Path) -> None:
    written(tmp_path, 4, 2)
    page = read(tmp_path).page(5, 10)
    assert (page.total, page.first, page.columns, page.rows, page.cell) == (6, 5, 5, 3, 8)
    assert page.frames == ["Bn4="]  # 5 * 331 + 7 = 0x067e


def test_a_running_job_shows_its_finished_chunks(tmp_path: Path) -> None:
    assert Figures.read(tmp_path) is None
    writer = FiguresWriter(tmp_path, FACTS, 0)
    assert (read(tmp_path).chunks, read(tmp_path).frames) == ([], 0)
    writer.add(chunk(0, 4), maps(0, 4))
    with (tmp_path / FIGURES).open("a") as file:
        file.write('{"first": 4, "fra')  # the next line, half written
    assert read(tmp_path).chunks == [chunk(0, 4)]


def test_a_resumed_job_drops_the_chunks_after_the_checkpoint(tmp_path: Path) -> None:
    written(tmp_path, 4, 4, 4)
    again = FiguresWriter(tmp_path, FACTS.model_copy(update={"device": "cuda"}), 2)
    assert again.chunks == 2
    again.add(chunk(8, 2), maps(8, 2))
    figures = read(tmp_path)
    assert [each.frames for each in figures.chunks] == [4, 4, 2]
    assert list(figures.maps()) == maps(0, 10)
    assert figures.facts.device == "cuda"
    assert sorted(os.listdir(tmp_path)) == [FIGURES, SKIPMAP]


def test_a_worker_that_lost_the_job_writes_into_its_old_files(tmp_path: Path) -> None:
    written(tmp_path, 4, 4)
    with (tmp_path / SKIPMAP).open("ab") as old:
        FiguresWriter(tmp_path, FACTS, 2).add(chunk(8, 1), maps(8, 1))
        old.write(b"too late")
    assert list(read(tmp_path).maps()) == maps(0, 9)


def test_lost_chunks_leave_a_gap(tmp_path: Path) -> None:
    writer = FiguresWriter(tmp_path, FACTS, 2)
    assert writer.chunks == 0
    writer.add(chunk(8, 2), maps(8, 2))
    assert list(read(tmp_path).maps(6)) == [None, None, *maps(8, 2)]


@pytest.mark.parametrize("data", [b"", b"\0" * 400, None])
def test_damaged_maps_are_lost_and_the_figures_stay(tmp_path: Path, data: bytes | None) -> None:
    written(tmp_path, 4)
    (tmp_path / SKIPMAP).unlink()
    if data is not None:
        (tmp_path / SKIPMAP).write_bytes(data)
    assert read(tmp_path).page(0, 9).frames == [None] * 4
    assert read(tmp_path).chunks == [chunk(0, 4)]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("secret")
    written(tmp_path, 4)
    (tmp_path / SKIPMAP).unlink()
    (tmp_path / SKIPMAP).symlink_to(tmp_path / "elsewhere")
    assert list(read(tmp_path).maps()) == [None] * 4
    (tmp_path / FIGURES).unlink()
    (tmp_path / FIGURES).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JobFailed):
        Figures.read(tmp_path)


def test_a_folder_that_another_worker_has_taken_gets_no_files(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "work-1"
    folder.mkdir()
    writer = written(folder, 4)
    folder.rename(tmp_path / "work-2")
    with pytest.raises(FileNotFoundError):
        writer.add(chunk(4, 4), maps(4, 4))
    assert not folder.exists()


def test_maps_that_hardly_change_take_little_room(tmp_path: Path) -> None:
    shape = SHAPE.model_copy(update={"columns": 80, "rows": 45})
    writer = FiguresWriter(tmp_path, FACTS.model_copy(update={"map": shape}), 0)
    rng = random.Random(0)
    bits, frames = rng.getrandbits(3600), []
    for _ in range(24):
        bits ^= 1 << rng.randrange(3600)
        frames.append(bits.to_bytes(shape.frame_bytes))
    writer.add(chunk(0, 24), frames)
    assert (tmp_path / SKIPMAP).stat().st_size < 450 * 24 / 4
    assert list(read(tmp_path).maps()) == frames
