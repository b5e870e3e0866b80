"""Removes files whose time is over, and folders that belong to no job. Never what is in use.

How long something has been over is told by the wall clock (it is days, and people expect dates). Whether a folder is
an orphan is not: it must have been seen unchanged for a while by this very process, so that a clock that jumps can't
make an upload look abandoned.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.errors import StoreUnavailable
from jobs.schema import Job, JobState
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore

log = logging.getLogger(__name__)

_LAST_BREATH = timedelta(seconds=30)
"""By then the worker that ended a job has put its own things in order, or never will."""


class Janitor:
    """Cleans every `janitor_seconds` in a thread of its own; several may do so at once.

    `now` is the wall clock, `clock` a monotonic one in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        storage: Storage,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._store, self._storage = settings, store, storage
        self._now, self._clock = now, clock
        self._seen: dict[Path, tuple[float, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, after what it is at."""
        self._ended.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._ended.wait(self._settings.janitor_seconds):
            try:
                self.clean()
            except StoreUnavailable:
                continue
            except OSError as error:
                log.warning("could not clean up: %s", error)
            except Exception:  # whatever one job's document does: who does not clean fills the disk
                log.exception("could not clean up; trying again")

    def clean(self) -> list[str]:
        """Clean once; returns what was removed, in words. Raises StoreUnavailable, OSError."""
        removed = []
        for job in self._store.list(limit=1_000_000):
            removed += self._expire(job)
        removed += self._orphans()
        for line in removed:
            log.info("removed %s", line)
        return removed

    def _expire(self, job: Job) -> list[str]:
        if not job.state.final or job.finished_at is None:
            return []
        age, settings = self._now() - job.finished_at, self._settings
        removed = []
        if age > _LAST_BREATH:
            self._store.tidy(job.id)
        result, source = self._storage.result_path(job.id), self._storage.input_path(job.id)
        if age > timedelta(hours=settings.history_ttl_hours) and self._store.forget(job.id):
            self._storage.remove(job.id)
            return [f"job {job.id}"]
        if job.state is JobState.DONE:
            if age > _LAST_BREATH:
                self._storage.remove_work(job.id)  # in case the worker died right after it had published
            if age > timedelta(hours=settings.input_ttl_hours) and source.exists():
                source.unlink(missing_ok=True)
                removed.append(f"input of {job.id}")
            if age > timedelta(hours=settings.result_ttl_hours) and result.exists():
                result.unlink(missing_ok=True)
                removed.append(f"result of {job.id}")
            if removed and not source.exists() and not result.exists():
                self._storage.remove(job.id)
        elif self._storage.job_dir(job.id).exists() and (
            job.state is JobState.CANCELLED
            or (age > timedelta(hours=settings.failed_ttl_hours) and self._store.give_up_files(job.id))
        ):
            self._storage.remove(job.id)
            removed.append(f"files of {job.id}")
        return removed

    def _orphans(self) -> list[str]:
        # Folders first: whatever becomes a job after this look is not among them.
        candidates = list(self._storage.folders().values())
        if self._storage.uploads.exists():
            candidates += list(self._storage.uploads.iterdir())
        known = self._store.ids()
        now, grace = self._clock(), self._settings.orphan_minutes * 60
        seen, removed = {}, []
        for path in candidates:
            if path.name in known:
                continue
            changed = _newest(path)
            before = self._seen.get(path)
            if before is None or before[0] != changed:
                seen[path] = (changed, now)
            elif now - before[1] < grace:
                seen[path] = before
            else:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                removed.append(f"orphan {path.name}")
        self._seen = seen
        return removed


def _newest(path: Path) -> float:
    """When anything at or below a path last changed."""
    newest = 0.0
    for entry in [path, *path.rglob("*")] if path.is_dir() else [path]:
        try:
            newest = max(newest, entry.stat().st_mtime)
        except FileNotFoundError:
            continue
    return newest
