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
