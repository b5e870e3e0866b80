"""RQ's worker, for a process that keeps its networks warm: jobs run in this very process, without a fork.

What RQ does not do for such a worker is done by `worker.heartbeat`: heartbeats while a job runs, noticing deaths,
stopping a job that runs. This class is only where the two meet.
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
from jobs.tickets import SERIALIZER

log = logging.getLogger(__name__)


class WarmWorker(SimpleWorker):
    """A SimpleWorker that stops at the next chunk, and whose notes in Redis outlive it by `ttl` seconds at most.

    `on_stop` is called at the first SIGTERM or SIGINT, and `on_force_stop` at a second one (at least a second later);
    both from the signal handler. `stopping` says whether a signal came before RQ's handlers were installed.
    """

    max_connection_wait_time = 5.0

    def __init__(
        self,
        queues: list[str],
        *,
        name: str,
        connection: Redis,
        ttl: int,
        on_stop: Callable[[], None],
        on_force_stop: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        super().__init__(queues, name=name, connection=connection, serializer=SERIALIZER, worker_ttl=30)
        self._ttl = ttl
        self._on_stop = on_stop
        self._on_force_stop = on_force_stop
        self._stopping = stopping
        self._executing = threading.Lock()
        """Held while notes on this worker or its ticket are written, renewed or removed, by whichever thread."""
        self._registered = False

    def get_heartbeat_ttl(self, job: Ticket, working_time: float = 0.0) -> int:
        """RQ's default for a SimpleWorker is the job's whole timeout: a dead worker would look alive for weeks."""
        return self._ttl

    def register_birth(self) -> None:
        """RQ takes a heartbeat that comes before this for another worker of the same name, and would not begin."""
        with self._executing:
            super().register_birth()  # type: ignore[no-untyped-call]
            self._registered = True

    def register_death(self) -> None:
        """And one that comes after it would leave a note of a worker that is no more."""
        with self._executing:
            self._registered = False
            super().register_death()  # type: ignore[no-untyped-call]

    def subscribe(self) -> None:
        """RQ's orders over pub/sub are not used: what is asked of a job comes with the answer to a heartbeat."""

    def check_for_suspension(self, burst: bool) -> None:
        """Called before every look into the queues. A signal may have come while the worker was being set up."""
        if self._stopping():
            raise StopRequested
        super().check_for_suspension(burst)

    def handle_job_success(
        self, job: Ticket, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """The ticket may be gone: whoever queues a job again replaces the ticket that it had."""

        def end() -> None:
            super(WarmWorker, self).handle_job_success(job, queue, started_job_registry, execution)

        with self._executing:
            try:
                tickets.mended(self.connection, job.id, end)
            except InvalidJobOperation:
                self.executions.pop(execution.id, None)

    def beat(self, connection: Redis) -> None:
        """Tell RQ that this worker and its ticket live, if registered; called by the heart, with its connection."""
        with self._executing, connection.pipeline() as pipe:
            if not self._registered:
                return
            self.heartbeat(self._ttl, pipeline=pipe)
            for execution in list(self.executions.values()):
                execution.save(self._ttl, pipeline=pipe)  # whole: it may have faded while this machine slept
                execution.heartbeat(execution.job.started_job_registry, self._ttl, pipeline=pipe)
            pipe.execute()

    def handle_warm_shutdown_request(self) -> None:
        """First signal."""
        log.info("stopping at the next chunk; a second signal stops at once")
        self._on_stop()

    def set_shutdown_requested_date(self) -> None:
        """RQ writes this to Redis from within the signal handler; that Redis is away must not hurt the job."""
        try:
            super().set_shutdown_requested_date()  # type: ignore[no-untyped-call]
        except RedisError:
            log.debug("could not note the shutdown")

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Second signal. One that follows within a second is the same ^C, sent to the group and by the parent."""
        requested = self._shutdown_requested_date
        if requested is None or (now() - requested).total_seconds() >= 1:
            self._on_force_stop()
