"""The queue in RQ: each ticket asks a worker to look at one job.

A ticket carries only a job's id. The job's document decides whether the job is still to be done, and Redis claims the
job in one step. The store can therefore replace a lost ticket, and a surplus ticket has no effect.

RQ keeps and runs the tickets, and records the worker of each ticket. The order is that of `jobs.lines`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from redis import Redis
from rq import Queue
from rq.exceptions import DequeueTimeout, InvalidJobOperation, NoSuchJobError
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job as Ticket
from rq.registry import StartedJobRegistry

from jobs import lines
from jobs.lines import Line, Place
from jobs.schema import Priority

TASK: Final = "worker.tasks.run"
"""Name of the function in every ticket. No such function exists; the worker runs tickets with its own runner."""
SERIALIZER: Final = "json"
QUEUES: Final = {priority: f"skipvsr-{priority}" for priority in Priority}
"""RQ's queue of each priority."""
_PRIORITIES: Final = {name: priority for priority, name in QUEUES.items()}
ATTEMPTS: Final = 5
"""Attempts at a step of RQ. Each execution record that vanishes costs one; a ticket has one record, rarely two."""


class FairQueue(Queue):
    """A queue of RQ. The tickets wait in the lines of `jobs.lines` instead of a single list."""

    line: Line | None = None
    """Line of new tickets; None: the line without an API key."""
    place = Place.BACK
    """Place of new tickets."""

    def push_job_id(self, job_id: str, pipeline: Any = None, at_front: bool = False) -> None:
        """Put a ticket into its line."""
        line = self.line or Line(_PRIORITIES[self.name])
        lines.push(pipeline or self.connection, line, job_id, Place.FRONT if at_front else self.place)

    @classmethod
    def dequeue_any(
        cls,
        queues: Iterable[Queue],
        timeout: float | None,
        connection: Redis,
        job_class: type[Ticket] | None = None,
        serializer: Any = None,
        death_penalty_class: Any = None,
    ) -> tuple[Ticket, Queue] | None:
        """Take the next ticket of all priorities, or wait for one. RQ's caller expects `DequeueTimeout`."""
        given_up = time.monotonic() + (timeout or 0)
        while True:
            found = lines.take(connection)
            if found is not None:
                key = cls.redis_queue_namespace_prefix + QUEUES[found[0]]
                fetched = cls._fetch_dequeued_job(
                    *(connection, key, found[1].decode()),
                    job_class=job_class,
                    serializer=serializer,
                    death_penalty_class=death_penalty_class,
                )
                if fetched is not None:
                    return fetched
            elif timeout is None:
                return None
            elif (left := given_up - time.monotonic()) <= 0 or not lines.wait(connection, left):
                raise DequeueTimeout(timeout, [queue.key for queue in queues])


def push(redis: Redis, job_id: str, number: int, line: Line, *, place: Place, timeout: int, pipe: Any) -> str:
    """Add a ticket for a job to its line; return the ticket's id.

    Args:
        redis: the client.
        job_id: the job.
        number: a number that makes the ticket's id unique.
        line: the line of the job's priority and API key.
        place: the place in the line.
        timeout: seconds that RQ allows for the job.
        pipe: a Redis pipeline. The ticket must be its first command, because RQ starts the transaction.
    """
    queue = FairQueue(QUEUES[line.priority], connection=redis, serializer=SERIALIZER)
    queue.line, queue.place = line, place
    ticket = queue.create_job(
        TASK,
        args=(job_id,),
        job_id=f"{job_id}-{number}",
        timeout=timeout,
        result_ttl=0,
        failure_ttl=3600,
        description=f"upscale {job_id}",
    )
    queue.enqueue_job(ticket, pipeline=pipe)
    return ticket.id


def drop(redis: Redis, ticket_id: str, line: Line) -> None:
    """Remove a ticket from its line, and all records of RQ about the ticket."""

    def delete() -> None:
        try:
            ticket = Ticket.fetch(ticket_id, connection=redis, serializer=SERIALIZER)
            with redis.pipeline() as pipe:
                ticket.delete(pipeline=pipe)
                pipe.execute()
        except (NoSuchJobError, InvalidJobOperation):  # a worker has ended the ticket, possibly after the fetch
            redis.delete(Ticket.key_for(ticket_id))

    lines.remove(redis, line, ticket_id)
    with_repair(redis, ticket_id, delete)


def with_repair(redis: Redis, ticket_id: str, step: Callable[[], None]) -> None:
    """Run a step of RQ that reads execution records; repair the records before, and repeat the step if it fails.

    RQ lists the execution records and then reads each record. The step fails if a record vanishes in between. This
    happens when a worker ends a ticket while another client queues the job again, for example after a pause. A failed
    step has changed nothing: RQ reads first, and then writes in one transaction.
    """
    for _ in range(ATTEMPTS - 1):
        repair(redis, ticket_id)
        try:
            step()
            return
        except (ValueError, KeyError):  # RQ's errors for a missing record, and for a record with only a late heartbeat
            continue
    repair(redis, ticket_id)
    step()


def repair(redis: Redis, ticket_id: str) -> None:
    """Remove references to expired execution records of a ticket.

    After a worker's death, or a sleep of its machine, a record can expire before the lists that name the record. RQ can
    neither finish nor delete a ticket with such references.
    """
    registry = ExecutionRegistry(ticket_id, connection=redis)
    for execution_id in registry.get_execution_ids():
        record = Execution(id=execution_id, job_id=ticket_id, connection=redis)
        if redis.hexists(record.key, "created_at"):
            continue
        redis.delete(record.key)
        redis.zrem(registry.key, execution_id)
        for name in QUEUES.values():
            redis.zrem(StartedJobRegistry(name, connection=redis).key, record.composite_key)


def waiting(redis: Redis) -> list[str]:
    """Ids of the jobs with a ticket in a line, in the order in which workers take the tickets."""
    return [job_id for ids in waiting_by_priority(redis).values() for job_id in ids]


def waiting_by_priority(redis: Redis) -> dict[Priority, list[str]]:
    """Ids of the jobs with a ticket of each priority, in the order in which workers take the tickets."""
    return {
        priority: [job_of(ticket.decode(errors="replace")) for ticket in found]
        for priority, found in lines.waiting(redis).items()
    }


def job_of(ticket_id: str) -> str:
    """Id of a ticket's job."""
    return ticket_id.rpartition("-")[0]
