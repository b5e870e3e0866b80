"""The queue in RQ: each ticket asks a worker to look at one job.

A ticket carries only a job's id. The job's document decides whether the job is still to be done, and Redis claims the
job in one step. So the store can replace a lost ticket, and a surplus ticket has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from redis import Redis
from rq import Queue
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job as Ticket
from rq.registry import StartedJobRegistry

from jobs.schema import Priority

TASK: Final = "worker.tasks.run"
"""Name of the function in every ticket. No such function exists; the worker runs tickets with its own runner."""
SERIALIZER: Final = "json"
QUEUES: Final = {priority: f"skipvsr-{priority}" for priority in Priority}
"""Queue of each priority, in the order in which workers read the queues."""
ATTEMPTS: Final = 5
"""Attempts at a step of RQ. Each execution record that vanishes costs one; a ticket has one record, rarely two."""


def push(redis: Redis, job_id: str, number: int, priority: Priority, *, front: bool, timeout: int, pipe: Any) -> str:
    """Add a ticket for a job to its queue; return the ticket's id.

    Args:
        redis: the client.
        job_id: the job.
        number: a number that makes the ticket's id unique.
        priority: the job's priority, which selects the queue.
        front: whether the ticket goes to the front of the queue.
        timeout: seconds that RQ allows for the job.
        pipe: a Redis pipeline. The ticket must be its first command, because RQ starts the transaction.
    """
    queue = Queue(QUEUES[priority], connection=redis, serializer=SERIALIZER)
    ticket = queue.create_job(
        TASK,
        args=(job_id,),
        job_id=f"{job_id}-{number}",
        timeout=timeout,
        result_ttl=0,
        failure_ttl=3600,
        description=f"upscale {job_id}",
    )
    queue.enqueue_job(ticket, pipeline=pipe, at_front=front)
    return ticket.id


def drop(redis: Redis, ticket_id: str) -> None:
    """Remove a ticket from its queue, and all records of RQ about the ticket."""

    def delete() -> None:
        try:
            ticket = Ticket.fetch(ticket_id, connection=redis, serializer=SERIALIZER)
            with redis.pipeline() as pipe:
                ticket.delete(pipeline=pipe)
                pipe.execute()
        except (NoSuchJobError, InvalidJobOperation):  # a worker has ended the ticket, possibly after the fetch
            redis.delete(Ticket.key_for(ticket_id))
            for name in QUEUES.values():
                redis.lrem(Queue(name, connection=redis, serializer=SERIALIZER).key, 0, ticket_id)

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

    A record expires before the lists that name the record if a worker died or its machine slept. RQ can neither finish
    nor delete a ticket with such references.
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
    """Ids of the jobs with a ticket in a queue, in the order in which workers take the tickets."""
    return [job_id for ids in waiting_by_priority(redis).values() for job_id in ids]


def waiting_by_priority(redis: Redis) -> dict[Priority, list[str]]:
    """Ids of the jobs with a ticket in the queue of each priority, in the order in which workers take the tickets."""
    found: dict[Priority, list[str]] = {}
    for priority, name in QUEUES.items():
        key = Queue(name, connection=redis, serializer=SERIALIZER).key
        tickets = cast("list[bytes]", redis.lrange(key, 0, -1))
        # RQ would fail at ids that are no text.
        found[priority] = [job_of(ticket.decode(errors="replace")) for ticket in tickets]
    return found


def job_of(ticket_id: str) -> str:
    """Id of a ticket's job."""
    return ticket_id.rpartition("-")[0]


def missing(redis: Redis, queued: Iterable[str]) -> set[str]:
    """Queued jobs without a ticket; a worker that dies with a ticket in hand loses the ticket."""
    return set(queued) - set(waiting(redis))
