"""RQ's worker loop for a process that keeps networks in memory: jobs run in the process itself, without a fork.

RQ offers such a worker no heartbeats during a job, no detection of dead workers and no way to stop a running job.
`worker.heartbeat` provides all three, and this class connects RQ to the heartbeat thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import FrameType

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker
from rq.exceptions import InvalidJobOperation, StopRequested
from rq.executions import Execution
from rq.job import Job as Ticket
from rq.registry import StartedJobRegistry
from rq.utils import now

from jobs import tickets
from jobs.tickets import SERIALIZER, FairQueue
from worker.runner_ticket import drop, ticket_class

log = logging.getLogger(__name__)


class WarmWorker(SimpleWorker):
    """A SimpleWorker that stops after the chunk in work, with RQ records that expire within `ttl` seconds.

    Args:
        queues: names of the queues.
        run: processes the job with a given id. The worker drops every other ticket.
        name: RQ's name of the worker.
        connection: the Redis client.
        ttl: seconds until RQ's records of a dead worker expire.
        on_stop: called in the signal handler of the first SIGTERM or SIGINT.
        on_force_stop: called in the signal handler of a second signal at least one second later.
        stopping: whether a signal arrived before RQ installed its signal handlers.
    """

    max_connection_wait_time = 5.0

    def __init__(
        self,
        queues: list[str],
        run: Callable[[str], None],
        *,
        name: str,
        connection: Redis,
        ttl: int,
        on_stop: Callable[[], None],
        on_force_stop: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        super().__init__(
            queues,
            name=name,
            connection=connection,
            serializer=SERIALIZER,
            queue_class=FairQueue,
            job_class=ticket_class(run),
            worker_ttl=30,
        )
        self._ttl = ttl
        self._on_stop = on_stop
        self._on_force_stop = on_force_stop
        self._stopping = stopping
        self._record_lock = threading.Lock()
        """Held by any thread that changes RQ's records of this worker or its ticket."""
        self._registered = False

    def get_heartbeat_ttl(self, job: Ticket, working_time: float = 0.0) -> int:
        """Return `ttl`. RQ's default is the job's timeout, and a dead worker would seem alive for weeks."""
        return self._ttl

    def register_birth(self) -> None:
        """Register the worker. RQ mistakes an earlier heartbeat for another worker of the same name, and fails."""
        with self._record_lock:
            super().register_birth()  # type: ignore[no-untyped-call]
            self._registered = True

    def register_death(self) -> None:
        """Deregister the worker. A later heartbeat would leave a record of a dead worker."""
        with self._record_lock:
            self._registered = False
            super().register_death()  # type: ignore[no-untyped-call]

    def subscribe(self) -> None:
        """Do nothing: requests of users arrive in replies to heartbeats, not over pub/sub."""

    def check_for_suspension(self, burst: bool) -> None:
        """Stop if a signal arrived during the setup. RQ calls this method before each look into the queues."""
        if self._stopping():
            raise StopRequested
        super().check_for_suspension(burst)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Ticket, Queue] | None:
        """Wait for a ticket. RQ fails at ids that are no text; this method drops such ids."""
        while True:
            try:
                return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
            except UnicodeDecodeError as error:
                drop(self.connection, error.object, "malformed id")

    def handle_job_success(
        self, job: Ticket, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """End a ticket, even if another client has replaced the ticket by queueing the job again."""

        def end() -> None:
            super(WarmWorker, self).handle_job_success(job, queue, started_job_registry, execution)

        with self._record_lock:
            try:
                tickets.with_repair(self.connection, job.id, end)
            except InvalidJobOperation:
                self.executions.pop(execution.id, None)

    def renew_records(self, connection: Redis) -> None:
        """Renew RQ's records of a registered worker and its ticket; the heartbeat thread passes its own client."""
        with self._record_lock, connection.pipeline() as pipe:
            if not self._registered:
                return
            self.heartbeat(self._ttl, pipeline=pipe)
            for execution in list(self.executions.values()):
                execution.save(self._ttl, pipeline=pipe)  # the whole record, which expires while the machine sleeps
                execution.heartbeat(execution.job.started_job_registry, self._ttl, pipeline=pipe)
            pipe.execute()

    def handle_warm_shutdown_request(self) -> None:
        """Handle the first signal."""
        log.info("stopping after the chunk in work; a second signal stops at once")
        self._on_stop()

    def set_shutdown_requested_date(self) -> None:
        """Record the shutdown in Redis. RQ calls this in a signal handler, where an error would end the job."""
        try:
            super().set_shutdown_requested_date()  # type: ignore[no-untyped-call]
        except RedisError:
            log.debug("could not record the shutdown")

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Handle a later signal. Within one second, the terminal and the parent both report the same ^C."""
        requested = self._shutdown_requested_date
        if requested is None or (now() - requested).total_seconds() >= 1:
            self._on_force_stop()
