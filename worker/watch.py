"""Noticing that other workers have died, and that tickets were lost.

A job's heartbeats are counted. Whoever watches sees a count stand still, and measures for how long by its own monotonic
clock: no clock needs to agree with another, and none of them can jump.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from jobs.settings import Settings
from jobs.store import JobStore
from worker.joblog import JobLog

log = logging.getLogger(__name__)


class Watch:
    """One observer. `clock` is a monotonic clock in seconds."""

    def __init__(self, store: JobStore, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._lost_after = settings.worker_lost_seconds
        self._max_deaths = settings.max_deaths
        self._clock = clock
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}
        self._unticketed: dict[str, float] = {}
        self._looked_at: float | None = None

    def forget(self) -> None:
        """Start afresh: Redis was away, and nobody could say anything meanwhile."""
        self._seen.clear()
        self._unticketed.clear()
        self._looked_at = None

    def look(self) -> list[str]:
        """Look once; returns the ids of jobs that were taken from workers that are lost.

        Raises StoreUnavailable.
        """
        now = self._clock()
        if self._looked_at is not None and now - self._looked_at > self._lost_after / 2:
            self.forget()  # this very process was stopped: it has not watched, so it has seen nothing stand still
        self._looked_at = now
        holders = self._store.holders()
        lost = []
        for job_id, sign in holders.items():
            before = self._seen.get(job_id)
            if before is None or before[0] != sign:
                self._seen[job_id] = (sign, now)
            elif now - before[1] >= self._lost_after:
                token, beat = sign
                state = self._store.declare_lost(job_id, token, beat, max_deaths=self._max_deaths)
                del self._seen[job_id]
                if state is not None:
                    JobLog(log, job_id).warning("its worker is lost; it is %s now", state)
                    lost.append(job_id)
        for gone in self._seen.keys() - holders.keys():
            del self._seen[gone]
        self._rewrite_tickets(now)
        return lost

    def _rewrite_tickets(self, now: float) -> None:
        """Give jobs that have been queued without a ticket for a while a new one.

        Whoever takes a ticket claims the job at once; after a few seconds nobody has it in hand any more.
        """
        since = {job_id: self._unticketed.get(job_id, now) for job_id in self._store.without_ticket()}
        for job_id, missed in sorted(since.items()):
            if now - missed >= self._lost_after / 2:
                JobLog(log, job_id).warning("it had lost its ticket")
                self._store.enqueue(job_id, front=True)
        self._unticketed = since
