"""Progress and measurements of a job whose parts several workers compute."""

from __future__ import annotations

import pytest

from jobs.parts import DONE, OPEN, TAKEN, Row
from jobs.schema import JobMetrics, JobOptions, Progress
from pipeline.checkpoint import Identity
from pipeline.parts import WARM_UP, Part, Plan
from worker.together import Together

PLAN = Plan(
    identity=Identity(input_sha256="", model="", options=JobOptions()),
    frames=100,
    chunk=4,
    encoder_threads=1,
    parts=[
        Part(first=0, frames=40),
        Part(first=40, frames=30, warm_up=3),
        Part(first=70, frames=None, warm_up=24, exact=False),
    ],
)


def progress(done: int, saved: int, fps: float | None = None) -> Progress:
    return Progress(frames_done=done, frames_saved=saved, frames_total=99, fps=fps)


def test_progress_is_that_of_all_workers() -> None:
    together = Together(PLAN)
    together.begin(0)
    assert together.progress(progress(10, 8, 2.0)) == Progress(
        frames_done=10, frames_saved=8, frames_total=100, fps=2.0, eta_seconds=45.0
    )
    together.see(
        [Row(1, TAKEN, 5, 1, progress(15, 12, 3.0), JobMetrics()), Row(2, OPEN, 0, 0, Progress(), JobMetrics())]
    )
    found = together.progress(progress(20, 20, 2.0))
    assert (found.frames_done, found.frames_saved, found.fps, found.eta_seconds) == (35, 32, 5.0, 13.0)
    together.end(progress(40, 40, 2.0), JobMetrics())
    together.see([Row(1, DONE, 5, 9, progress(30, 30, 3.0), JobMetrics())])
    found = together.progress()
    assert (found.frames_done, found.frames_saved, found.fps, found.eta_seconds) == (70, 70, None, None)
    segments = together.segments()
    assert (segments.total, segments.done, segments.workers) == (3, 2, 2)
    assert (segments.exact_seams, segments.warmed_seams, segments.warmup_frames) == (1, 1, WARM_UP)


def test_the_table_knows_nothing_new_of_the_lead_s_own_part() -> None:
    together = Together(PLAN)
    together.begin(2)
    together.see([Row(2, TAKEN, 7, 0, progress(3, 3, 9.0), JobMetrics())])
    assert together.progress(progress(10, 8, 2.0)).fps == 2.0
    assert together.checkpoint(2)[0] == progress(8, 8)
    assert together.is_own(2)


def test_measurements_are_sums_and_means() -> None:
    together = Together(PLAN)
    first = JobMetrics(
        model_seconds=6, encode_seconds=1, chunk_seconds=[3, 3], cuts=[5], skip_ratio=0.2, reuse_ratio=0.1, speedup=2
    )
    together.begin(0)
    together.end(progress(40, 40), first)
    together.begin(1)
    own = JobMetrics(model_seconds=2, encode_seconds=2, chunk_seconds=[1, 1], cuts=[7], skip_ratio=0.6, speedup=1)
    found = together.metrics(own)
    assert (found.model_seconds, found.encode_seconds, found.chunk_seconds, found.cuts) == (8, 3, [3, 3, 1, 1], [5, 47])
    assert (found.skip_ratio, found.reuse_ratio, found.speedup) == pytest.approx((0.4, 0.05, 14 / 8))
