"""The worker's heartbeat thread, with its own Redis connection.

The thread announces the worker, stores progress, receives requests of users, and detects dead workers. The job
continues while Redis is down; the thread then sends the collected fields when Redis is back.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from jobs.errors import StoreUnavailable
from jobs.parts import PartClaim, PartTable
from jobs.presence import Duty, Presence, WorkerInfo
from jobs.schema import JobState
from jobs.settings import Settings
from jobs.store import Claim, HeartbeatReply, JobStore
from worker.lease import Lease, StopReason
from worker.liveness import LivenessMonitor

log = logging.getLogger(__name__)

_HUNG: Final = 70
"""Exit status of a process with a hung job (EX_SOFTWARE)."""
_POLL: Final = 0.4
"""Seconds between two looks for a user's request to the job: one small command of Redis each."""
_PROGRESS: Final = 0.9
"""Seconds between two heartbeats with progress, at least."""


class Heartbeat:
    """A thread that sends a heartbeat every `heartbeat_seconds` between `start` and `stop`, or sooner with progress.

    Args:
        settings: the settings.
        connection: a Redis client that no other thread uses.
        info: the worker's announcement.
        models: returns the scale of each current model by name; the set of user models can change at any time.
        on_lost: called with the number of workers found dead.
    """

    def __init__(
        self,
        settings: Settings,
        connection: Redis,
        info: WorkerInfo,
        *,
        models: Callable[[], dict[str, int]],
        on_lost: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._store = JobStore(connection, job_timeout=settings.job_timeout_hours * 3600)
        self._parts = PartTable(connection)
        self._presence = Presence(connection)
        self._monitor = LivenessMonitor(
            self._store, settings, on_duty=lambda seconds: self._presence.on_duty(Duty.WATCH, info.name, seconds)
        )
        self._info = info
        self._models = models
        self._on_lost = on_lost
        self._lease: Lease | None = None
        self._rq_heartbeat: Callable[[Redis], None] | None = None
        self._ended = threading.Event()
        self._beat_now = threading.Event()
        self._stop_by: float | None = None
        self._redis_down = False
        self._next_check = 0.0
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and remove the worker's announcement."""
        self._ended.set()
        self._beat_now.set()
        self._thread.join(timeout=10)

    @property
    def stopping(self) -> bool:
        """Whether the process has been asked to end."""
        return self._stop_by is not None

    @contextmanager
    def lease(self, claim: Claim) -> Iterator[Lease]:
        """Send heartbeats for a claimed job, or for a claimed part of a job, during the block."""
        lease = Lease(claim, self._beat_now.set)
        if self._stop_by is not None:
            lease.shut_down(self._stop_by)
        self._lease = lease
        self._beat_now.set()
        try:
            yield lease
        finally:
            self._lease = None
            self._beat_now.set()

    @contextmanager
    def with_rq(self, rq_heartbeat: Callable[[Redis], None]) -> Iterator[None]:
        """Send RQ's own heartbeat as well during the block; `rq_heartbeat` gets this thread's Redis client."""
        self._rq_heartbeat = rq_heartbeat
        try:
            yield
        finally:
            self._rq_heartbeat = None

    def shut_down(self) -> None:
        """Ask the job to stop, and end the process if the job takes longer than `stop_grace_seconds`.

        A signal handler calls this method: the method takes no lock and does not wait.
        """
        self._stop_by = time.monotonic() + self._settings.stop_grace_seconds
        lease = self._lease
        if lease is not None:
            lease.shut_down(self._stop_by)

    def exit_now(self, status: int) -> None:
        """End the process after one attempt to requeue its job; a requeued job need not wait for a death report."""
        lease = self._lease
        try:
            if lease is not None:
                self._give_back(lease.claim, lease.take_fields_at_checkpoint())
            self._presence.leave(self._info.name)
        except StoreUnavailable:
            log.warning("Redis does not answer; other workers will requeue the job later")
        os._exit(status)

    def _give_back(self, claim: Claim, fields: dict[str, Any]) -> None:
        if isinstance(claim, PartClaim):
            self._parts.release(claim, JobState.QUEUED, fields)
        else:
            self._store.release(claim, JobState.QUEUED, fields)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._beat_now.clear()
            lease = self._lease
            try:
                self._beat(lease)
            except (StoreUnavailable, RedisError) as error:
                if not self._redis_down:
                    log.warning("heartbeat failed: %s; the job continues", error)
                self._redis_down = True
                self._monitor.reset()
            except Exception:  # without heartbeats the worker would count as dead
                log.exception("heartbeat failed; trying again")
            else:
                if self._redis_down:
                    log.warning("Redis is back")
                self._redis_down = False
            self._enforce_timeouts(lease)
            self._wait(lease)
        try:
            self._presence.leave(self._info.name)
        except StoreUnavailable:
            log.debug("could not remove the worker's announcement; it will expire")

    def _wait(self, lease: Lease | None) -> None:
        """Wait for the next heartbeat. A heartbeat with progress comes early, and one with a user's request at once."""
        begun, most = time.monotonic(), self._settings.heartbeat_seconds
        while (waited := time.monotonic() - begun) < most and not self._beat_now.wait(min(_POLL, most - waited)):
            if lease is not None and (self._due(lease, begun) or self._asked(lease)):
                return

    @staticmethod
    def _due(lease: Lease, begun: float) -> bool:
        """Whether progress waits for longer than a moment since the last heartbeat."""
        return lease.has_fields and time.monotonic() - begun >= _PROGRESS

    def _asked(self, lease: Lease) -> bool:
        """Whether a user has a new request to the job."""
        if self._redis_down:
            return False
        try:
            request = self._store.request_to(lease.claim.job_id)
        except StoreUnavailable:
            return True  # the next heartbeat tells
        return request is not None and StopReason.of(request) > (lease.stop_reason or 0)

    def _beat(self, lease: Lease | None) -> None:
        job_id = lease.claim.job_id if lease is not None else None
        scales = self._models()
        info = self._info.model_copy(update={"job": job_id, "models": list(scales), "scales": scales})
        self._presence.announce(info, self._settings.worker_lost_seconds)
        if lease is not None:
            self._renew(lease)
        rq_heartbeat = self._rq_heartbeat
        if rq_heartbeat is not None:
            rq_heartbeat(self._store.redis)
        if time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + self._settings.heartbeat_seconds
            lost = self._monitor.check()
            if lost:
                self._on_lost(len(lost))

    def _renew(self, lease: Lease) -> None:
        """Send the heartbeat of a job with the new fields, and pass a request of the user on."""
        fields = lease.take_fields()
        try:
            reply = self._beaten(lease.claim, fields)
        except StoreUnavailable:
            lease.return_fields(fields)
            raise
        if not reply.held:  # also after the job has just finished; then nobody reads the reason
            lease.request_stop(StopReason.LOST)
        elif reply.request is not None:
            lease.request_stop(StopReason.of(reply.request))

    def _beaten(self, claim: Claim, fields: dict[str, Any]) -> HeartbeatReply:
        if isinstance(claim, PartClaim):
            return self._parts.heartbeat(claim, fields)
        return self._store.heartbeat(claim, fields)

    def _enforce_timeouts(self, lease: Lease | None) -> None:
        """End the process if its job hangs or takes too long to stop."""
        if lease is None:
            return
        now = time.monotonic()
        if self._stop_by is not None and now > self._stop_by:
            log.warning("the chunk took longer than SKIPVSR_STOP_GRACE_SECONDS; abandoning the chunk")
            self.exit_now(0)
        if now - lease.active_at > self._settings.chunk_timeout_minutes * 60:
            log.error("no frame finished within SKIPVSR_CHUNK_TIMEOUT_MINUTES; ending the worker")
            os._exit(_HUNG)  # without requeueing: the exit counts as a death, so a hanging job fails in the end
