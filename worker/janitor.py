"""Removal of expired files and of orphaned folders. Files in use always stay.

The wall clock decides the expiry, because retention times are days. The monotonic clock decides about orphans: this
process must have seen a folder unchanged for a while. So a wall clock that jumps never makes an upload seem abandoned.

Redis may lose the jobs. Then the janitor restores the jobs from the records beside their files (`jobs.recovery`).
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from jobs import records
from jobs.errors import StoreUnavailable
from jobs.recovery import Recovery
from jobs.resumable import ResumableFiles
from jobs.retention import Retention
from jobs.schema import Job, JobState
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore

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
        storage: the files.
        now: the wall clock.
        clock: a monotonic clock in seconds.
        on_duty: whether this process is the one that cleans up; takes the seconds of a term.
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
        self._resumable = ResumableFiles(storage, store.knows, lambda: now().timestamp())
        self._unchanged_since: dict[Path, tuple[float, float]] = {}
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
                self._recovery.check()
            except StoreUnavailable:
                continue
            except OSError as error:
                log.warning("cleanup failed: %s", error)
            except Exception:  # one broken document must not end the thread: the disk would fill up
                log.exception("cleanup failed; trying again")

    def clean(self) -> list[str]:
        """Clean up once; return descriptions of the removed files. Raises StoreUnavailable, OSError."""
        removed = []
        complete = self._restore()
        jobs = self._store.list(limit=1_000_000)
        records.follow(self._storage, jobs)
        surplus = self._surplus(jobs)
        for job in jobs:
            removed += self._forget(job) if job.id in surplus else self._expire(job)
        removed += self._remove_orphans() if complete else []
        removed += self._resumable.expire()
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
        result, source = self._storage.result_path(job.id), self._storage.input_path(job.id)
        removed = []
        for path, name, end in (
            (source, "input", self._retention.input(job)),
            (result, "result", self._retention.files(job)),
        ):
            if self._is_past(end) and path.exists():
                path.unlink(missing_ok=True)
                removed.append(f"{name} of {job.id}")
        if removed and not source.exists() and not result.exists():
            self._storage.remove(job.id)
        return removed

    def _expire_unsuccessful(self, job: Job) -> list[str]:
        """Remove the files of a cancelled job, or of a job that failed long ago and has not been resumed since."""
        if not self._storage.job_dir(job.id).exists():
            return []
        expired = job.files_removed or self._is_past(self._retention.files(job))
        if job.state is not JobState.CANCELLED and not (expired and self._store.mark_files_removed(job.id)):
            return []
        self._storage.remove(job.id)
        return [f"files of {job.id}"]

    def _remove_orphans(self) -> list[str]:
        now, grace = self._clock(), self._settings.orphan_minutes * 60
        unchanged_since, removed = {}, []
        for path in self._orphans():
            changed = _newest_change(path)
            before = self._unchanged_since.get(path)
            if before is None or before[0] != changed:
                unchanged_since[path] = (changed, now)
            elif now - before[1] < grace:
                unchanged_since[path] = before
            else:
                _remove(path)
                removed.append(f"orphan {path.name}")
        self._unchanged_since = unchanged_since
        return removed

    def _orphans(self) -> list[Path]:
        """Uploads, remains of removals, and folders without a job that hold no result within its retention time."""
        # List the folders before the jobs, so that a folder of a new job cannot seem orphaned.
        folders = self._storage.folders()
        uploads = list(self._storage.uploads.iterdir()) if self._storage.uploads.exists() else []
        known = self._store.ids()
        return uploads + [
            path
            for name, path in folders.items()
            if name.startswith(".removed-") or (known and name not in known and not self._holds_result(path))
        ]

    def _holds_result(self, folder: Path) -> bool:
        """Whether a folder holds a result within its retention time. Redis may have lost the job."""
        kept = timedelta(hours=self._settings.result_ttl_hours).total_seconds()
        for path in folder.glob("result.*"):
            try:
                if self._now().timestamp() - path.lstat().st_mtime <= kept:
                    return True
            except FileNotFoundError:
                continue
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _newest_change(path: Path) -> float:
    """Newest modification time at or below a path."""
    newest = 0.0
    for entry in [path, *path.rglob("*")] if path.is_dir() else [path]:
        try:
            newest = max(newest, entry.stat().st_mtime)
        except FileNotFoundError:
            continue
    return newest
