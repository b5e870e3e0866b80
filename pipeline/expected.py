"""Expected time and size of a run, at its start."""

from __future__ import annotations

from jobs.schema import Estimate, JobOptions
from jobs.speed import SpeedTable, Work
from media.spec import expected_bytes
from pipeline.events import Started
from pipeline.source import expected_frames


def expected(started: Started, model: str, options: JobOptions, table: SpeedTable) -> Estimate | None:
    """Estimate the rest of a run; None if the frames or the machine's speed are unknown."""
    spec, video, frames = started.spec, started.info.video, expected_frames(started.info, started.spec)
    if frames is None:
        return None
    work = Work.of(model, options, spec.codec, (video.width, video.height), (spec.width, spec.height))
    forecast = table.forecast(work, max(0, frames - started.progress.frames_done))
    frame = table.per_frame(work)
    if forecast is None or frame is None:
        return None
    return Estimate(
        seconds=forecast.seconds,
        seconds_low=forecast.low,
        seconds_high=forecast.high,
        width=spec.width,
        height=spec.height,
        frames=frames,
        bytes=expected_bytes(spec, frames, frame.bits),
        basis=forecast.basis,
    )
