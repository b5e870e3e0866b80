"""Figures of chunks: the shape of the maps, the bits of a frame, and runs that were interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.figures import MOST_CELLS, SKIPMAP, Figures
from model.engine.upscaler import Upscaler
from model.routing import RoutingReport
from pipeline.events import ChunkDone, Started
from pipeline.figures import map_shape, packed
from pipeline.upscale import upscale
from tests.support.runs import finish, task


@pytest.mark.parametrize(
    ("width", "height", "fold", "expected"),
    [
        (320, 180, 1, (40, 23, 8)),
        (1280, 720, 1, (80, 45, 16)),
        (1920, 1080, 1, (80, 45, 24)),
        (1280, 720, 2, (80, 45, 16)),
        (1, 1, 1, (1, 1, 8)),
        (100_000, 20, 1, (3125, 1, 32)),
    ],
)
def test_cells_are_tiles_or_a_few_of_them(width: int, height: int, fold: int, expected: tuple[int, int, int]) -> None:
    shape = map_shape(width, height, fold)
    assert (shape.columns, shape.rows, shape.cell) == expected
    assert shape.columns * shape.rows <= MOST_CELLS


def report(left_out: np.ndarray) -> RoutingReport:
    return RoutingReport(1, 0, 0, 0, 0.0, left_out=left_out.astype(np.float32))


def test_a_cell_is_set_if_any_work_ran_in_it() -> None:
    shape = map_shape(1288, 720, 1)
    assert (shape.columns, shape.rows, shape.cell) == (81, 45, 16)
    left_out = np.ones((90, 161))
    left_out[0, 3] = 0.5
    left_out[89, 160] = 0.0
    bits = np.unpackbits(np.frombuffer(packed(report(left_out), shape, 1), np.uint8))[: 81 * 45].reshape(45, 81)
    assert [tuple(cell) for cell in np.argwhere(bits)] == [(0, 1), (44, 80)]


def test_an_interrupted_run_ends_with_the_same_figures(clip: Path, model: Upscaler, tmp_path: Path) -> None:
    finish(upscale(task(clip, tmp_path / "whole"), model))
    work = task(clip, tmp_path / "w")
    for stop in (2, 4):
        events = upscale(work, model)
        next(event for event in events if isinstance(event, ChunkDone) and event.number == stop)
        events.close()
    finish(upscale(work, model))
    whole, resumed = Figures.read(tmp_path / "whole"), Figures.read(tmp_path / "w")
    assert whole is not None
    assert resumed is not None
    exact = {"seconds": 0.0, "model_seconds": 0.0}
    assert [c.model_copy(update=exact) for c in resumed.chunks] == [c.model_copy(update=exact) for c in whole.chunks]
    assert [chunk.first for chunk in whole.chunks] == [0, 4, 8, 12, 16, 20]
    assert list(resumed.maps()) == list(whole.maps())
    assert len(list(whole.maps())) == 26
    assert all(chunk.seconds > 0 for chunk in resumed.chunks)


def test_lost_figures_are_named(clip: Path, model: Upscaler, tmp_path: Path) -> None:
    work = task(clip, tmp_path / "w")
    events = upscale(work, model)
    next(event for event in events if isinstance(event, ChunkDone) and event.number == 1)
    events.close()
    for path in work.folder.glob("figures.jsonl"):
        path.unlink()
    started, *_ = events = list(upscale(work, model))
    assert isinstance(started, Started)
    assert started.resumed
    assert any("figures of the first chunks are lost" in warning for warning in started.warnings)
    figures = Figures.read(work.folder)
    assert figures is not None
    assert list(figures.maps(0, 8)) == [None] * 8
    assert None not in list(figures.maps(8))
    assert (work.folder / SKIPMAP).exists()
