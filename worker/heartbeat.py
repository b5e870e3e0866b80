"""The worker's second thread, with its own Redis connection: says that the worker lives, hears what is asked of it.

It never stops for Redis: while that is away the job goes on, and what is to be said is said when it is back.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from jobs.errors import StoreUnavailable
from jobs.presence import Presence, WorkerInfo
from jobs.schema import JobState
from jobs.settings import Settings
from jobs.store import Claim, JobStore
from worker.watch import Watch

log = logging.getLogger(__name__)


class Hold:
    """One job in this worker's hands, shared between the thread that works on it and the heart."""

    def __init__(self, claim: Claim, wake: threading.Event) -> None:
        self.claim = claim
        self._wake = wake
        self.stop = threading.Event()
        """Set as soon as there is a reason to stop."""
        self.reason = ""
        """cancel, pause, shutdown, or lost: the job is another worker's by now."""
        self.alive_at = time.monotonic()
        self._fields: dict[str, Any] = {}
        self._lock = threading.Lock()

    def note(self, fields: dict[str, Any]) -> None:
        """Leave fields of the document for the heart, and count as a sign of life of the work itself."""
        with self._lock:
            self._fields.update(fields)
        self.alive_at = time.monotonic()
        self._wake.set()

    def ask(self, reason: str) -> None:
        """Ask the work to stop. Losing the job weighs most, then cancelling it."""
        rank = ("", "shutdown", "pause", "cancel", "lost")
        if rank.index(reason) > rank.index(self.reason):
            self.reason = reason
            self.stop.set()

    def take_fields(self) -> dict[str, Any]:
        """The fields noted since the last time."""
        with self._lock:
            fields, self._fields = self._fields, {}
        return fields

    def give_fields_back(self, fields: dict[str, Any]) -> None:
        """Fields that could not be sent; newer ones win."""
        with self._lock:
            self._fields = {**fields, **self._fields}


class Heart:
    """Beats every `heartbeat_seconds` from `start` to `stop`.

    `connection` must be used by nobody else. `rq_beat` is called with it too, for RQ's own idea of who is alive.
    """

    def __init__(
        self, settings: Settings, connection: Redis, info: WorkerInfo, rq_beat: Callable[[Redis], None] | None = None
    ) -> None:
        self._settings = settings
        self._store = JobStore(connection, job_timeout=settings.job_timeout_hours * 3600)
        self._presence = Presence(connection)
        self._watch = Watch(self._store, settings)
        self._info = info
        self.rq_beat = rq_beat
        self.on_lost: Callable[[int], None] = lambda count: None
        """Told how many workers have been found dead."""
        self.models: Callable[[], list[str]] = lambda: info.models
        """Asked at each beat which models there are: files of the user's own come and go."""
        self._hold: Hold | None = None
        self._ended = threading.Event()
        self._beat_now = threading.Event()
        self._stop_by: float | None = None
        self._away = False
        self._look_at = 0.0
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and take the worker off the list of those that live."""
        self._ended.set()
        self._beat_now.set()
        self._thread.join(timeout=10)

    @contextmanager
    def holding(self, claim: Claim) -> Iterator[Hold]:
        """Beat for a job too, as long as the block lasts."""
        hold = Hold(claim, self._beat_now)
        if self._stop_by is not None:
            hold.ask("shutdown")
        self._hold = hold
        self._beat_now.set()
        try:
            yield hold
        finally:
            self._hold = None
            self._beat_now.set()

    def shut_down(self) -> None:
        """The process is to end: ask the job to stop, and see to it that this does not take longer than it may.

        Called from a signal handler, so it takes no lock and does not wait.
        """
        self._stop_by = time.monotonic() + self._settings.stop_grace_seconds
        hold = self._hold
        if hold is not None:
            hold.ask("shutdown")

    def leave_at_once(self, status: int) -> None:
        """End the process now, after one try at handing the job back so that nobody needs to miss this worker first."""
        hold = self._hold
        try:
            if hold is not None:
                self._store.let_go(hold.claim, JobState.QUEUED)
            self._presence.leave(self._info.name)
        except StoreUnavailable:
            log.warning("Redis does not answer; the job will be missed and go to another worker")
        os._exit(status)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._beat_now.clear()
            hold = self._hold
            try:
                self._beat(hold)
            except (StoreUnavailable, RedisError) as error:
                if not self._away:
                    log.warning("no heartbeat: %s; work goes on", error)
                self._away = True
                self._watch.forget()
            except Exception:  # a heart that stops is a worker that is taken for dead, whatever the reason
                log.exception("a heartbeat failed; trying again")
            else:
                if self._away:
                    log.warning("Redis is back")
                self._away = False
            self._limit(hold)
            self._beat_now.wait(self._settings.heartbeat_seconds)
        try:
            self._presence.leave(self._info.name)
        except StoreUnavailable:
            log.debug("could not sign off; the worker's note will fade")

    def _beat(self, hold: Hold | None) -> None:
        job_id = hold.claim.job_id if hold is not None else None
        note = self._info.model_copy(update={"job": job_id, "models": self.models()})
        self._presence.announce(note, self._settings.worker_lost_seconds)
        if hold is not None:
            fields = hold.take_fields()
            try:
                answer = self._store.beat(hold.claim, fields)
            except StoreUnavailable:
                hold.give_fields_back(fields)
                raise
            # A job that has just been finished is not held either; nobody looks at the reason then.
            if not answer.held:
                hold.ask("lost")
            elif answer.request:
                hold.ask(answer.request)
        if self.rq_beat is not None:
            self.rq_beat(self._store.redis)
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + self._settings.heartbeat_seconds
            lost = self._watch.look()
            if lost:
                self.on_lost(len(lost))

    def _limit(self, hold: Hold | None) -> None:
        """End a process whose work hangs, or that takes too long to stop."""
        now = time.monotonic()
        if self._stop_by is not None and now > self._stop_by and hold is not None:
            log.warning("the chunk took longer than SKIPVSR_STOP_GRACE_SECONDS; it is given up")
            self.leave_at_once(0)
        if hold is not None and now - hold.alive_at > self._settings.chunk_timeout_minutes * 60:
            log.error("no chunk was finished in SKIPVSR_CHUNK_TIMEOUT_MINUTES; the worker ends itself")
            os._exit(70)  # without handing back: that counts as a death, so that a job that hangs does not go round
