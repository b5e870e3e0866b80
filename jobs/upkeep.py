"""Removal of files that uploads and workers of this machine have left behind.

The monotonic clock decides: this process must have seen an entry unchanged for a while. A jump of the wall clock
therefore never makes an upload seem abandoned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Self

from jobs.resumable import ResumableFiles
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.stored import Entry


class Abandoned:
    """Entries that nobody uses any more.

    Args:
        grace: seconds without a change.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, grace: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace, self._clock = grace, clock
        self._unchanged_since: dict[str, tuple[float, float]] = {}

    def remove(self, entries: Iterable[Entry]) -> list[str]:
        """Remove the entries that have not changed for a while; return descriptions."""
        now = self._clock()
        unchanged_since, removed = {}, []
        for entry in entries:
            changed = entry.changed()
            before = self._unchanged_since.get(entry.name)
            if before is None or before[0] != changed:
                unchanged_since[entry.name] = (changed, now)
            elif now - before[1] < self._grace:
                unchanged_since[entry.name] = before
            else:
                entry.remove()
                removed.append(f"orphan {entry.name}")
        self._unchanged_since = unchanged_since
        return removed


class Upkeep:
    """Cleans this machine's data folder: uploads, scratch files and copies. Several processes may clean at once.

    Args:
        settings: the settings.
        storage: the files.
        is_job: whether a job has this id. May raise StoreUnavailable.
        now: the wall clock in seconds, for the lifetime of resumable uploads.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        is_job: Callable[[str], bool],
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage, self._clock = storage, clock
        self._abandoned = Abandoned(settings.orphan_minutes * 60, clock)
        self._resumable = ResumableFiles(storage, is_job, now)
        self._pause = settings.janitor_seconds
        self._due = clock() + self._pause

    @classmethod
    def of_a_server(cls, settings: Settings, storage: Storage, is_job: Callable[[str], bool]) -> Self | None:
        """The upkeep of a server with a bucket, whose data folder no worker may share; None with the data folder."""
        return cls(settings, storage, is_job) if settings.storage else None

    def clean_if_due(self) -> list[str]:
        """Clean if `janitor_seconds` have passed; return descriptions of what was removed."""
        return self.clean() if self._clock() >= self._due else []

    def clean(self) -> list[str]:
        """Clean once; return descriptions of what was removed. Raises OSError."""
        self._due = self._clock() + self._pause
        return [*self._abandoned.remove(self._storage.leftovers()), *self._resumable.expire()]
