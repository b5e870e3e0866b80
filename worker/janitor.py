"""Removal of expired files and of orphaned folders. Files in use always stay.

The wall clock decides the expiry, because retention times are days. The monotonic clock decides about orphans: this
process must have seen a folder unchanged for a while. A jump of the wall clock therefore never makes an upload seem
abandoned.

Redis may lose the jobs. Then the janitor restores the jobs from the records beside their files (`jobs.recovery`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

from jobs import records
from jobs.errors import StorageUnavailable, StoreUnavailable
from jobs.recovery import Recovery
from jobs.retention import Retention
from jobs.schema import Job, JobState
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore
from jobs.stored import Entry
from jobs.upkeep import Abandoned, Upkeep

log = logging.getLogger(__name__)

_SETTLE_TIME = timedelta(seconds=30)
"""Time that a worker has to clean up after a finished job; later the janitor does."""
_LOSS_SECONDS = 2.0
"""Seconds between two looks whether Redis has lost jobs."""
_HISTORY_SHARE = 0.5
"""Part of Redis' maximum memory that documents of finished jobs may take."""


class Janitor:
    """A thread that cleans up every `janitor_seconds` while on duty. Several janitors may run at once.

    Args:
        settings: the settings, with all retention times.
        store: the jobs.
        storage: the files; an object for the janitor only, because listing a bucket changes the results of later reads.
        now: the wall clock.
        clock: a monotonic clock in seconds.
        on_duty: whether this process is the one that cleans up for all; takes the seconds of a term.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        storage: Storage,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        on_duty: Callable[[float], bool] = lambda _: True,
    ) -> None:
        self._settings, self._store, self._storage = settings, store, storage
        self._now, self._clock, self._on_duty = now, clock, on_duty
        self._retention = Retention(settings)
        self._recovery = Recovery(store, storage)
        self._upkeep = Upkeep(settings, storage, store.knows, now=lambda: now().timestamp(), clock=clock)
        self._abandoned = Abandoned(settings.orphan_minutes * 60, clock)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the current cleanup."""
        self._ended.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        due = self._clock() + self._settings.janitor_seconds
        wait = 0.0
        while not self._ended.wait(wait):
            wait = min(self._settings.janitor_seconds, _LOSS_SECONDS)
            try:
                if self._clock() >= due:
                    due = self._clock() + self._settings.janitor_seconds
                    if self._on_duty(2 * self._settings.janitor_seconds):
                        self.clean()
                    else:
                        self.tidy()
                self._recovery.check()
            except (StoreUnavailable, StorageUnavailable):
                continue
            except OSError as error:
                log.warning("cleanup failed: %s", error)
            except Exception:  # one broken document must not end the thread: the disk would fill up
                log.exception("cleanup failed; trying again")

    def clean(self) -> list[str]:
        """Clean up once; return descriptions of the removed files. Raises StoreUnavailable, OSError."""
        removed = []
        self._storage.survey()
        complete = self._restore()
        jobs = self._store.list(limit=1_000_000)
        records.follow(self._storage, jobs)
        surplus = self._surplus(jobs)
        for job in jobs:
            removed += self._forget(job) if job.id in surplus else self._expire(job)
        removed += self._abandoned.remove(self._orphans()) if complete else []
        return self._logged(removed) + self.tidy()

    def tidy(self) -> list[str]:
        """Clean what belongs to this machine alone; return descriptions of the removed files."""
        return self._logged(self._upkeep.clean())

    @staticmethod
    def _logged(removed: list[str]) -> list[str]:
        for line in removed:
            log.info("removed %s", line)
        return removed

    def _restore(self) -> bool:
        """List lost jobs again; return False if Redis accepts no jobs. A full Redis still needs the cleanup."""
        try:
            records.restore(self._store, self._storage)
        except StoreUnavailable as error:
            log.warning("cannot list lost jobs again: %s", error)
            return False
        return True

    def _surplus(self, jobs: list[Job]) -> set[str]:
        """Ids of the finished jobs beyond the limits of the history: the oldest jobs of the keys with the most jobs."""
        most, room = self._settings.history_jobs or len(jobs), _HISTORY_SHARE * self._store.max_memory()
        finished = [job for job in jobs if job.state.final]
        finished.sort(key=lambda job: job.finished_at or job.created_at, reverse=True)
        ranks: defaultdict[str, Iterator[int]] = defaultdict(count)
        finished.sort(key=lambda job: next(ranks[job.owner]))  # the newest job of each key, then the second newest, …
        surplus, size = set(), 0
        for number, job in enumerate(finished, 1):
            size += len(job.model_dump_json())
            if number > most or 0 < room < size:
                surplus.add(job.id)
        return surplus

    def _expire(self, job: Job) -> list[str]:
        """Remove everything of a finished job with an expired retention time; return descriptions."""
        if not job.state.final or job.finished_at is None:
            return []
        settled = self._now() - job.finished_at > _SETTLE_TIME
        if settled:
            self._store.drop_stale_ticket(job.id)
        if self._is_past(self._retention.document(job)):
            return self._forget(job)
        if job.state is JobState.DONE:
            return self._expire_done(job, settled=settled)
        return self._expire_unsuccessful(job)

    def _is_past(self, time: datetime | None) -> bool:
        return time is not None and time < self._now()

    def _forget(self, job: Job) -> list[str]:
        """Remove the files of a finished job, and then its document; nothing if the job has been resumed."""
        if job.state is JobState.FAILED and not self._store.mark_files_removed(job.id):
            return []
        self._storage.remove(job.id)
        return [f"job {job.id}"] if self._store.forget(job.id) else []

    def _expire_done(self, job: Job, *, settled: bool) -> list[str]:
        if settled:
            self._storage.remove_work(job.id)  # left over if the worker died right after the publication
        expired = {
            "input": self._is_past(self._retention.input(job)),
            "result": self._is_past(self._retention.files(job)),
        }
        if not any(expired.values()):
            return []
        files = {"input": self._storage.input(job.id), "result": self._storage.result(job.id)}
        gone = {name: file for name, file in files.items() if file is not None and expired[name]}
        for file in gone.values():
            self._storage.remove_file(job.id, file)
        if gone and all(file is None or name in gone for name, file in files.items()):
            self._storage.remove(job.id)
        return [f"{name} of {job.id}" for name in gone]

    def _expire_unsuccessful(self, job: Job) -> list[str]:
        """Remove the files of a cancelled job, or of a job that failed long ago and has not been resumed since."""
        if not self._storage.holds(job.id):
            return []
        expired = job.files_removed or self._is_past(self._retention.files(job))
        if job.state is not JobState.CANCELLED and not (expired and self._store.mark_files_removed(job.id)):
            return []
        self._storage.remove(job.id)
        return [f"files of {job.id}"]

    def _orphans(self) -> list[Entry]:
        """Files without a job that hold no result within its retention time."""
        # List the files before the jobs, so that files of a new job cannot seem orphaned.
        entries = self._storage.entries()
        known = self._store.ids()
        return [entry for entry in entries if known and entry.job_id not in known and not self._holds_result(entry)]

    def _holds_result(self, entry: Entry) -> bool:
        """Whether a result within its retention time exists. Redis may have lost the job."""
        kept = timedelta(hours=self._settings.result_ttl_hours).total_seconds()
        return any(self._now().timestamp() - modified <= kept for modified in entry.results())
