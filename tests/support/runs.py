"""Runs of the pipeline without a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.schema import JobOptions
from pipeline.events import Event, Finished
from pipeline.task import UpscaleTask


def task(clip: Path, folder: Path, **options: object) -> UpscaleTask:
    folder.mkdir(exist_ok=True)
    return UpscaleTask(
        clip, folder, JobOptions.model_validate({"model": "tiny", "chunk": 4, "lookahead": 2, **options})
    )


def finish(events: Iterator[Event]) -> Finished:
    *_, last = events
    assert isinstance(last, Finished)
    return last
