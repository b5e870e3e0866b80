"""What tickets call by name. The process that runs them has put its `Runner` where this finds it."""

from __future__ import annotations

from contextvars import ContextVar

from worker.runner import Runner

RUNNER: ContextVar[Runner] = ContextVar("runner")


def run(job_id: str) -> None:
    """Do the job with this id."""
    RUNNER.get().run(job_id)
