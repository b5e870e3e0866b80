"""The client's present activity, for `on_progress`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from skipvsr_client.documents import Job


@dataclass(frozen=True)
class Activity:
    """A step of the work: bytes while uploading and downloading, frames otherwise."""

    phase: str
    """uploading, downloading, away (the server does not answer), or the state of the job."""
    done: int = 0
    total: int | None = None
    job: Job | None = None
    message: str = ""
    """Reason why the job is paused or the server is away."""


OnProgress = Callable[[Activity], None]


def ignore(_: Activity) -> None:
    """Report nothing."""


def of_job(job: Job) -> Activity:
    """Describe the state of a job."""
    message = job.error.detail if job.error is not None else ""
    return Activity(job.state, job.progress.frames_done, job.progress.frames_total, job, message)


def away(on_progress: OnProgress) -> Callable[[str], None]:
    """Return a function that reports trouble with the server."""
    return lambda trouble: on_progress(Activity("away", message=trouble))
