"""One attempt at a job: what the job document says of its times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from jobs.schema import Job, JobMetrics, JobOptions
from jobs.store import Claim
from worker.attempt import Attempt
from worker.lease import Lease


def test_a_job_that_fails_at_once_has_waited() -> None:
    """The time in the queue is part of the document from the claim on, and later attempts keep the time."""
    created = datetime.now(UTC) - timedelta(seconds=9)
    job = Job(id="0" * 24, filename="a.mp4", options=JobOptions(), created_at=created)
    lease = Lease(Claim(job.id, 1), lambda: None)
    assert Attempt(job, lease).is_first
    stored = lease.take_fields()["metrics"]
    assert isinstance(stored, JobMetrics)
    assert stored.queue_seconds is not None
    assert 9 <= stored.queue_seconds < 60
    again = Attempt(job.model_copy(update={"metrics": stored}), lease)
    assert not again.is_first
    assert lease.take_fields()["metrics"].queue_seconds == stored.queue_seconds


def test_warnings_of_workers_stay_in_later_attempts_once() -> None:
    """A job that is paused after a warning resumes with the warning; two parts with the same one give one."""
    earlier = ["The device ran out of memory: the job used chunks of 2 frames.", "The source has no sound."]
    job = Job(id="0" * 24, filename="a.mp4", options=JobOptions(), warnings=earlier)
    attempt = Attempt(job, Lease(Claim(job.id, 1), lambda: None))
    attempt.warn(earlier[0])
    attempt.warn("The checkpoint belongs to another device; the job started again.")
    found = attempt.with_warnings(["a", "a"])
    assert found == ["a", earlier[0], "The checkpoint belongs to another device; the job started again."]
