"""Retention of the files of finished jobs. The janitor applies the times, and job documents announce them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from jobs.schema import Job, JobState
from jobs.settings import Settings

LONGEST_HOURS: Final = 1000 * 365 * 24
"""Later times do not fit into a date."""


class Retention:
    """The retention times of the settings. Every time is None for a job that is not finished."""

    def __init__(self, settings: Settings) -> None:
        self._history = _hours(settings.history_ttl_hours)
        self._input = _hours(settings.input_ttl_hours)
        self._result = _hours(settings.result_ttl_hours)
        self._failed = _hours(settings.failed_ttl_hours)

    def document(self, job: Job) -> datetime | None:
        """Time when the job is removed as a whole."""
        return _after(job, self._history)

    def input(self, job: Job) -> datetime | None:
        """Time when the uploaded file is removed."""
        return _after(job, min(self._history, self._input if job.state is JobState.DONE else self._failed))

    def files(self, job: Job) -> datetime | None:
        """Time when the result of a finished job, or all files of a failed job, are removed.

        None also for a job without files. `history_jobs` may remove a job earlier.
        """
        if job.state is JobState.CANCELLED or job.files_removed:
            return None
        return _after(job, min(self._history, self._result if job.state is JobState.DONE else self._failed))

    def announced(self, job: Job) -> Job:
        """The job's document with `expires_at`."""
        return job.model_copy(update={"expires_at": self.files(job)})


def _after(job: Job, time: timedelta) -> datetime | None:
    return job.finished_at + time if job.state.final and job.finished_at is not None else None


def _hours(count: float) -> timedelta:
    return timedelta(hours=min(count, LONGEST_HOURS))
