"""A worker's lease on one job, shared by the thread that processes the job and the heartbeat thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, Final

from jobs.schema import JobState, Progress
from jobs.store import Claim, Request


class StopReason(IntEnum):
    """Why a worker stops processing a job. A higher value overrides a lower one."""

    SHUTDOWN = 1
    """The worker process ends; the job is queued again."""
    PAUSE = 2
    """A user paused the job."""
    CANCEL = 3
    """A user cancelled the job."""
    LOST = 4
    """Another worker has the job."""

    @classmethod
    def of(cls, request: Request) -> StopReason:
        """Stop reason of a user's request."""
        return cls.CANCEL if request is Request.CANCEL else cls.PAUSE

    @property
    def halts_network(self) -> bool:
        """Whether the network stops between two steps. A worker that ends finishes its chunk if there is time."""
        return self is not StopReason.SHUTDOWN

    @property
    def abandons_chunk(self) -> bool:
        """Whether even a computed chunk is discarded."""
        return self in (StopReason.CANCEL, StopReason.LOST)


STATE_AFTER: Final = {
    None: JobState.QUEUED,
    StopReason.SHUTDOWN: JobState.QUEUED,
    StopReason.PAUSE: JobState.PAUSED,
    StopReason.CANCEL: JobState.CANCELLED,
}
"""State of a stopped job by reason; a lost job belongs to another worker."""


_DOUBT: Final = 0.2
"""Part by which an estimate of remaining seconds may be too high."""


class Lease:
    """The lease on one job.

    Args:
        claim: the claim in the store.
        wake: called after new fields: the heartbeat thread then stores the fields soon.
    """

    def __init__(self, claim: Claim, wake: Callable[[], None]) -> None:
        self.claim = claim
        self._wake = wake
        self.stop = threading.Event()
        """Set as soon as the job has a reason to stop."""
        self.halt = threading.Event()
        """Set as soon as the network must stop between two steps."""
        self.stop_reason: StopReason | None = None
        self.stop_by: float | None = None
        """Monotonic time at which the process ends, if the worker shuts down."""
        self.active_at = time.monotonic()
        """Monotonic time of the last sign of progress."""
        self._fields: dict[str, Any] = {}
        self._progress: Progress | None = None
        self._lock = threading.RLock()  # a signal handler may interrupt the thread that holds the lock

    def update(self, fields: Mapping[str, Any]) -> None:
        """Pass fields of the job document to the heartbeat thread at once, and record a sign of progress."""
        self.note(fields)
        self.touch()
        self._wake()

    def note(self, fields: Mapping[str, Any]) -> None:
        """Pass fields of the job document to the heartbeat thread. The thread stores the fields about once a second."""
        with self._lock:
            self._fields.update(fields)
            self._progress = self._fields.get("progress", self._progress)

    @property
    def has_fields(self) -> bool:
        """Whether some fields are not stored yet."""
        return bool(self._fields)

    def touch(self) -> None:
        """Record a sign of progress."""
        self.active_at = time.monotonic()

    def request_stop(self, reason: StopReason) -> None:
        """Ask the processing thread to stop. Takes no lock, because signal handlers call this method."""
        if self.stop_reason is None or reason > self.stop_reason:
            self.stop_reason = reason
            if reason.halts_network:
                self.halt.set()
            self.stop.set()

    def shut_down(self, stop_by: float) -> None:
        """Ask the processing thread to stop before the process ends at a monotonic time. Takes no lock, too."""
        self.stop_by = stop_by
        self.request_stop(StopReason.SHUTDOWN)

    def expect_checkpoint(self, seconds: float) -> None:
        """Stop the network if the worker shuts down, and the process would end before the next checkpoint."""
        if self.stop_by is not None and time.monotonic() + seconds > self.stop_by + _DOUBT * seconds:
            self.halt.set()

    def take_fields(self) -> dict[str, Any]:
        """Remove and return the fields that are not stored yet."""
        with self._lock:
            fields, self._fields = self._fields, {}
        return fields

    def take_fields_at_checkpoint(self) -> dict[str, Any]:
        """Remove and return the fields for an end that loses the frames in work."""
        fields, progress = self.take_fields(), self._progress
        return {**fields, "progress": progress.at_checkpoint()} if progress is not None else fields

    def return_fields(self, fields: Mapping[str, Any]) -> None:
        """Put fields back that could not be stored; newer values win."""
        with self._lock:
            self._fields = {**fields, **self._fields}
