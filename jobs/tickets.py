"""The queue, as RQ has it: tickets that say "look at this job".

A ticket carries a job's id and nothing else; whether the job is to be done is in its document, and claiming it is one
step in Redis. So a lost ticket can be written again, and one too many does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from redis import Redis
from rq import Queue
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job as Ticket
from rq.registry import StartedJobRegistry

from jobs.schema import Priority

TASK: Final = "worker.tasks.run"
"""What a ticket calls in the worker; the service knows it by name only."""
SERIALIZER: Final = "json"
QUEUES: Final = {priority: f"skipvsr-{priority}" for priority in Priority}
"""Queue of each priority, in the order in which workers look into them."""
TRIES: Final = 5
"""A ticket has one note, rarely two: each that goes at the wrong moment costs one try."""


def push(redis: Redis, job_id: str, number: int, priority: Priority, *, front: bool, timeout: int, pipe: Any) -> str:
    """Add a ticket for a job to a pipeline, at the front or the back of its queue; returns the ticket's id.

    It must be the first thing in the pipeline `pipe`, for RQ begins the transaction. `number` makes tickets of one job
    distinct; `timeout` is in seconds.
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
    """Remove a ticket and all that RQ keeps about it, wherever it is."""

    def delete() -> None:
        try:
            ticket = Ticket.fetch(ticket_id, connection=redis, serializer=SERIALIZER)
            with redis.pipeline() as pipe:
                ticket.delete(pipeline=pipe)
                pipe.execute()
        except (NoSuchJobError, InvalidJobOperation):  # gone, or gone since it was read: a worker has just ended it
            redis.delete(Ticket.key_for(ticket_id))
            for name in QUEUES.values():
                redis.lrem(Queue(name, connection=redis, serializer=SERIALIZER).key, 0, ticket_id)

    mended(redis, ticket_id, delete)


def mended(redis: Redis, ticket_id: str, step: Callable[[], None]) -> None:
    """Do a `step` of RQ's that reads the notes that say who works on a ticket: mended before, and again if need be.

    RQ lists the notes and then reads each, and fails if one went between the two. The worker that ends a ticket and
    whoever queues its job again (after a pause, say) do so at the same moment. A step that failed has changed nothing:
    RQ reads first, and writes in one transaction.
    """
    for _ in range(TRIES - 1):
        mend(redis, ticket_id)
        try:
            step()
            return
        except (ValueError, KeyError):  # RQ's for a note that is gone, or gone but for a late heartbeat
            continue
    mend(redis, ticket_id)
    step()


def mend(redis: Redis, ticket_id: str) -> None:
    """Remove what is left of notes that say who works on a ticket, where they have faded.

    They fade before the list that names them, when a worker died or its machine slept, and RQ can't go on from there:
    it would neither finish the ticket nor delete it.
    """
    listed = ExecutionRegistry(ticket_id, connection=redis)
    for execution_id in listed.get_execution_ids():
        note = Execution(id=execution_id, job_id=ticket_id, connection=redis)
        if redis.hexists(note.key, "created_at"):
            continue
        redis.delete(note.key)
        redis.zrem(listed.key, execution_id)
        for name in QUEUES.values():
            redis.zrem(StartedJobRegistry(name, connection=redis).key, note.composite_key)


def waiting(redis: Redis) -> list[str]:
    """Ids of the jobs that have a ticket in a queue, in the order in which they will be taken."""
    queues = (Queue(name, connection=redis, serializer=SERIALIZER) for name in QUEUES.values())
    return [job_of(ticket) for queue in queues for ticket in queue.get_job_ids()]


def job_of(ticket_id: str) -> str:
    """The id of the job that a ticket is for."""
    return ticket_id.rpartition("-")[0]


def missing(redis: Redis, queued: Iterable[str]) -> set[str]:
    """Those of the `queued` jobs for which there is no ticket (a worker died with it in its hand)."""
    return set(queued) - set(waiting(redis))
