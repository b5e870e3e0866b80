"""Detection of dead workers and of lost tickets.

Workers count the heartbeats of each running job in Redis. A monitor measures, with its own monotonic clock, for how
long a count stays the same. No two clocks need to agree, and a jump of a clock has no effect.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from jobs.lines import Place
from jobs.settings import Settings
from jobs.store import HeartbeatCount, JobStore
from worker.job_log import JobLog

log = logging.getLogger(__name__)


class LivenessMonitor:
    """One observer of all running jobs.

    Args:
        store: the jobs.
        settings: the settings; `worker_lost_seconds` and `max_deaths` apply.
        clock: a monotonic clock in seconds.
        on_duty: whether this process is one of the observers; takes the seconds of a term.
    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        *,
        on_duty: Callable[[float], bool] = lambda _: True,
    ) -> None:
        self._store = store
        self._lost_after = settings.worker_lost_seconds
        self._max_deaths = settings.max_deaths
        self._clock = clock
        self._on_duty = on_duty
        self._unchanged_since: dict[str, tuple[HeartbeatCount, float]] = {}
        self._missing_since: dict[str, float] = {}
        self._checked_at: float | None = None

    def reset(self) -> None:
        """Discard all observations; for example, no worker can send heartbeats while Redis is down."""
        self._unchanged_since.clear()
        self._missing_since.clear()
        self._checked_at = None

    def check(self) -> list[str]:
        """Compare all heartbeat counts; return the ids of jobs taken from dead workers.

        Raises StoreUnavailable.
        """
        if not self._on_duty(self._lost_after / 2):
            self.reset()
            return []
        now = self._clock()
        if self._checked_at is not None and now - self._checked_at > self._lost_after / 2:
            self.reset()  # this process was stopped and has missed heartbeats of others
        self._checked_at = now
        counts = self._store.heartbeat_counts()
        lost = [job_id for job_id, count in counts.items() if self._is_lost(job_id, count, now)]
        for gone in self._unchanged_since.keys() - counts.keys():
            del self._unchanged_since[gone]
        self._replace_lost_tickets(now)
        return lost

    def _is_lost(self, job_id: str, count: HeartbeatCount, now: float) -> bool:
        """Take a job from its worker if its count has not changed for `worker_lost_seconds`."""
        before, since = self._unchanged_since.setdefault(job_id, (count, now))
        if before != count:
            self._unchanged_since[job_id] = (count, now)
            return False
        if now - since < self._lost_after:
            return False
        state = self._store.declare_lost(job_id, count.token, count.beats, max_deaths=self._max_deaths)
        del self._unchanged_since[job_id]
        if state is None:
            return False
        JobLog(log, job_id).warning("worker lost; the job is now %s", state)
        return True

    def _replace_lost_tickets(self, now: float) -> None:
        """Create new tickets for jobs that have been queued without a ticket for a while.

        A worker claims a job right after taking its ticket: after a few seconds, no worker holds the old ticket.
        """
        since = {job_id: self._missing_since.get(job_id, now) for job_id in self._store.without_ticket()}
        for job_id, missing_since in sorted(since.items()):
            if now - missing_since >= self._lost_after / 2:
                JobLog(log, job_id).warning("ticket lost; queued again")
                self._store.enqueue(job_id, Place.FIRST)
        self._missing_since = since
