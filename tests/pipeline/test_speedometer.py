"""The speed of a run, from the times of its events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.schema import JobMetrics, JobOptions, Progress
from jobs.speed import Measurement
from media.probe import MediaInfo, probe
from media.spec import OutputSpec, output_spec
from pipeline.events import ChunkDone, Finished, PartDone, Started, Stopped
from pipeline.speedometer import Speedometer
from tests.support.clips import make_clip

OPTIONS = JobOptions(chunk=8, lookahead=4, crf=24)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[MediaInfo, OutputSpec]:
    info = probe(make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=2))
    return info, replace(output_spec(info, scale=4, crf=24), codec="h264")


class Run:
    """A run at a clock of its own."""

    def __init__(self, source: tuple[MediaInfo, OutputSpec]) -> None:
        self.now = 0.0
        self.found: list[Measurement] = []
        self.meter = Speedometer("small", OPTIONS, self.found.append, lambda: self.now)
        self.source = source

    def start(self, at: float) -> None:
        self.now = at
        self.meter.take(Started(*self.source, Progress(), resumed=False, warnings=[]))

    def chunk(self, at: float, frames: int = 8) -> None:
        self.now = at
        self.meter.take(ChunkDone(0, frames, 1.0, Progress(), JobMetrics(), {}, []))

    def finish(self, at: float, path: Path, frames: int) -> None:
        self.now = at
        self.meter.take(Finished(path, self.source[1], Progress(frames_done=frames), JobMetrics(), [], frame_rate=None))


def test_a_short_job_is_one_measurement(source: tuple[MediaInfo, OutputSpec], tmp_path: Path) -> None:
    run, result = Run(source), tmp_path / "result.mp4"
    result.write_bytes(bytes(1000))
    run.start(2.0)
    run.chunk(6.0)
    run.chunk(8.0, frames=4)
    run.finish(8.5, result, frames=12)
    (found,) = run.found
    assert (found.frames, found.seconds, found.start) == (12, 6.0, 2.5)
    assert (found.work.pixels, found.work.output_pixels, found.work.codec) == (32 * 24, 128 * 96, "h264")
    assert (found.work.model, found.work.routing, found.work.extra) == ("small", "balanced", 0.5)
    assert found.bits == pytest.approx(2 * 8000 / (128 * 96 * 12))  # CRF 24 takes half the bits of CRF 18


def test_a_long_job_counts_before_its_end(source: tuple[MediaInfo, OutputSpec]) -> None:
    run = Run(source)
    run.start(0.0)
    for at in (10.0, 19.0, 25.0, 30.0):
        run.chunk(at)
    assert [(found.frames, found.seconds, found.start) for found in run.found] == [(24, 25.0, None)]
    run.meter.take(Stopped(Progress(), JobMetrics()))
    assert [(found.frames, found.seconds) for found in run.found[1:]] == [(8, 5.0)]


def test_a_resumed_run_without_chunks_measures_nothing(source: tuple[MediaInfo, OutputSpec], tmp_path: Path) -> None:
    run = Run(source)
    run.start(1.0)
    (tmp_path / "result.mp4").write_bytes(b"video")
    run.finish(1.5, tmp_path / "result.mp4", frames=12)
    assert run.found == []


@pytest.mark.parametrize(("resumed", "frames"), [(False, 40), (True, 16)])
def test_the_warm_up_of_a_part_is_work(source: tuple[MediaInfo, OutputSpec], resumed: bool, frames: int) -> None:
    """Else a short part seems slow, and later estimates are too long."""
    found: list[Measurement] = []
    times = iter((0.0, 0.0, 8.0, 10.0, 10.0))
    meter = Speedometer("small", OPTIONS, found.append, lambda: next(times), warm_up=24)
    meter.take(Started(*source, Progress(), resumed=resumed, warnings=[]))
    for _ in range(2):
        meter.take(ChunkDone(0, 8, 1.0, Progress(), JobMetrics(), {}, []))
    meter.take(PartDone(Progress(), JobMetrics()))
    assert [(each.frames, each.seconds) for each in found] == [(frames, 10.0)]
