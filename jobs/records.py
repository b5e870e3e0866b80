"""Records: job documents beside the job's files.

Redis holds the jobs. The records list the jobs again after a loss of Redis: a flushed server, a lost volume or a wrong
address. A deletion removes the folder first: no deleted job returns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from jobs.errors import JobFailed, StorageUnavailable
from jobs.schema import STORED, Job, JobOptions, JobState, Problem
from jobs.storage import Storage
from jobs.store import JobStore

log = logging.getLogger(__name__)

_WAITING: Final = (JobState.QUEUED, JobState.RUNNING)


def keep(storage: Storage, job: Job, *, through: Path | None = None, replaces: bytes | None = b"") -> bool:
    """Write the record of a job atomically; return False if the record could not be written.

    Args:
        storage: the files.
        job: the document.
        through: the working folder of a worker. A worker that has lost the folder cannot write the record.
        replaces: the record that the caller has read; None: no record; empty: any.
    """
    text = job.model_dump_json(exclude={"request"})
    try:
        return storage.write_record(job.id, text, through=through, replaces=replaces)
    except (OSError, StorageUnavailable) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        log.warning("cannot write the record of job %s: %s", job.id, reason, extra={"job_id": job.id})
        return False


def read(storage: Storage, job_id: str) -> Job | None:
    """Read the record of a job; None without a usable record."""
    return _parsed(storage.read_record(job_id), job_id)


def _parsed(text: bytes | None, job_id: str) -> Job | None:
    try:
        job = Job.model_validate_json(text, context=STORED) if text is not None else None
    except ValidationError:
        job = None
    return job if job is not None and job.id == job_id else None


def follow(storage: Storage, jobs: Iterable[Job]) -> None:
    """Write the records of jobs with another state, or without a record.

    The record of a finished job stays: a worker may have published a result after Redis listed the jobs.
    """
    for job in jobs:
        if not storage.holds(job.id):
            continue
        text = storage.read_record(job.id)
        known = _parsed(text, job.id)
        if known is None or (known.state is not job.state and known.state is not JobState.DONE):
            keep(storage, job, replaces=text)


def restore(store: JobStore, storage: Storage) -> list[str]:
    """Store and queue the jobs that only the disk knows; return their ids. Raises StoreUnavailable.

    A job that was running continues from its last checkpoint. A job without its upload fails with the reason. A folder
    with a result but without a record becomes a finished job with a warning.
    """
    known = store.ids()  # before the folders: a job deleted meanwhile is still known here
    restored = []
    for job_id in sorted(storage.job_ids() - known):
        job = read(storage, job_id)
        job = _rebuilt(storage, job_id) if job is None else _continued(storage, job)
        if job is not None and store.restore(job):
            restored.append(job_id)
    if restored:
        log.warning("Redis did not know %d jobs of the data folder; the jobs are listed again", len(restored))
    return restored


def _continued(storage: Storage, job: Job) -> Job:
    """The job as Redis gets it: waiting jobs are queued, or fail without their upload."""
    if job.state not in (*_WAITING, JobState.PAUSED):
        return job
    if storage.input(job.id) is not None:
        return job.model_copy(update={"state": JobState.QUEUED if job.state in _WAITING else job.state})
    error = JobFailed("Redis and the uploaded file were lost while the job was waiting; upload the video again.")
    failed = {"state": JobState.FAILED, "error": Problem.from_error(error), "finished_at": datetime.now(UTC)}
    return job.model_copy(update={**failed, "files_removed": True})


def _rebuilt(storage: Storage, job_id: str) -> Job | None:
    """A document for a folder without a usable record; None without a result."""
    try:
        result = storage.result(job_id)
        if result is None or not result.regular:
            return None
        finished = datetime.fromtimestamp(result.modified, UTC)
    except FileNotFoundError:
        return None
    lost = "Redis lost this job, and its record is missing: name, options and measurements are unknown."
    return Job(
        id=job_id,
        state=JobState.DONE,
        filename="unknown",
        options=JobOptions(),
        created_at=finished,
        finished_at=finished,
        warnings=[lost],
    )
