"""One attempt of a worker at a job."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

from jobs.schema import Job, JobMetrics, Progress
from pipeline.events import Event, Finished, Stopped
from worker.job_log import JobLog
from worker.lease import Lease
from worker.patience import patiently

T = TypeVar("T")


class Others(Protocol):
    """Contributions of other workers to an attempt."""

    def progress(self, own: Progress) -> Progress: ...
    def metrics(self, own: JobMetrics) -> JobMetrics: ...
    def look(self) -> object: ...


DEVICE_FAILED: Final = "The compute device of a worker failed"
OUT_OF_MEMORY: Final = "The device ran out of memory"
STARTED_AGAIN: Final = "The checkpoint belongs to another"
_KEPT: Final = (DEVICE_FAILED, OUT_OF_MEMORY, STARTED_AGAIN)
"""Beginnings of warnings that stay with the job in later attempts."""


class Attempt:
    """The job of an attempt, with log, warnings and times.

    Args:
        job: the job document at the claim.
        lease: the worker's lease.
    """

    def __init__(self, job: Job, lease: Lease) -> None:
        self.job, self.lease = job, lease
        self.log = JobLog(logging.getLogger(__name__), job.id)
        self.warnings = [warning for warning in job.warnings if warning.startswith(_KEPT)]
        """Warnings of the workers themselves, besides those of the pipeline."""
        self.others: Others | None = None
        """Other workers with parts of the job."""
        self.begun = False
        """Whether the pipeline has started in this attempt."""
        self._started = time.monotonic()
        self._frames = 0
        self._seconds_before = job.metrics.processing_seconds or 0.0
        waited = (datetime.now(UTC) - job.created_at).total_seconds()
        before = job.metrics.queue_seconds
        self.is_first = before is None
        """Whether no worker has reported on the job before."""
        self.queue_seconds = max(0.0, waited) if before is None else before  # the wall clock may go back
        lease.update({"metrics": self.metrics(job.metrics)})  # a job that fails at once has waited, too

    def progress(self, event: Event) -> Progress:
        """Progress of an event. The number of frames grows until the end, also if the pipeline starts again."""
        progress = event.progress
        if self.others is not None:
            progress = self.others.progress(progress)
            progress = progress.at_checkpoint() if isinstance(event, Stopped) else progress  # helpers stop, too
        return progress if isinstance(event, Stopped | Finished) else self.shown(progress)

    def warn(self, text: str) -> None:
        """Add a warning of this worker, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def with_warnings(self, others: list[str]) -> list[str]:
        """Warnings of the pipeline and of the workers, each once."""
        return list(dict.fromkeys([*others, *self.warnings]))

    def shown(self, progress: Progress) -> Progress:
        """Progress whose number of frames never falls."""
        if progress.frames_done > self._frames:
            self._frames = progress.frames_done
            self.lease.touch()
        return progress.model_copy(update={"frames_done": self._frames})

    def metrics(self, measured: JobMetrics) -> JobMetrics:
        """Add the times of waiting and processing, and other workers' measurements, to those of the pipeline."""
        if self.others is not None:
            measured = self.others.metrics(measured)
        return measured.model_copy(
            update={
                "queue_seconds": self.queue_seconds,
                "processing_seconds": self._seconds_before + time.monotonic() - self._started,
            }
        )


def stored(lease: Lease, call: Callable[[], T]) -> T:
    """Make a call about stored files, and wait while the bucket is away and the job has no reason to stop."""
    return patiently(call, stopped=lambda: lease.stop_reason is not None, waiting=lease.touch)
