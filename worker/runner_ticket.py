"""Tickets that a worker accepts: ours only.

Whoever can write to Redis can queue a ticket for RQ, with a pickled payload, a function, callbacks, webhooks or
dependencies. `restore` is the only way of a ticket from Redis into the process, and drops each ticket with another
content than ours before RQ reads the ticket.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from redis import Redis
from redis.exceptions import ResponseError
from rq.exceptions import NoSuchJobError
from rq.job import Job as Ticket

from jobs.tickets import TASK, job_of

log = logging.getLogger(__name__)

_FIELDS: Final = frozenset(
    {
        *("data", "created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat", "origin", "description"),
        *("timeout", "result_ttl", "failure_ttl", "status", "worker_name", "enqueue_at_front"),
    }
)
"""Fields of our tickets; every other field must be empty."""
_ID: Final = re.compile(r"[0-9a-f]{16,64}-[0-9]{1,20}")
_MAX_BYTES: Final = 4096


def ticket_class(run: Callable[[str], None]) -> type[Ticket]:
    """RQ's job class for tickets that `run` processes, regardless of the function name in the ticket."""

    class RunnerTicket(Ticket):
        @property
        def func(self) -> Callable[[str], None]:
            return run

        @classmethod
        def fetch(cls, id: str, connection: Redis | None = None, serializer: Any = None) -> Ticket:
            """Fetch our ticket. Removes a ticket with a malformed id or no fields, which RQ would not survive."""
            assert connection is not None, "RQ passes the connection of its queue"
            if not _ID.fullmatch(id):
                drop(connection, id.encode(), "malformed id")
                raise NoSuchJobError("malformed id")
            try:
                return super().fetch(id, connection=connection, serializer=serializer)
            except ResponseError as error:  # the key holds no hash
                drop(connection, id.encode(), str(error))
                raise NoSuchJobError("no hash") from None

        def restore(self, raw_data: Mapping[Any, Any]) -> None:
            """Load our ticket. Removes any other ticket, and raises RQ's error for a ticket that does not exist."""
            try:
                _check(self.id, raw_data)
                super().restore(raw_data)
            except Exception as error:  # a hostile ticket may fail in any way
                drop(self.connection, self.id.encode(), str(error))
                raise NoSuchJobError(f"not our ticket: {error}") from None

    return RunnerTicket


def drop(redis: Redis, ticket_id: bytes, reason: str) -> None:
    """Remove a ticket that is not ours."""
    log.warning("dropped a ticket that SkipVSR did not write: %.80r (%s)", ticket_id, reason)
    redis.delete(Ticket.redis_job_namespace_prefix.encode() + ticket_id)


def _check(ticket_id: str, raw: Mapping[Any, Any]) -> None:
    """Raise an error if a ticket is not ours, within bounded time and memory, and without any code of the ticket."""
    fields = {bytes(name).decode("ascii", "replace"): value for name, value in raw.items()}
    if foreign := sorted(name for name, value in fields.items() if value and name not in _FIELDS):
        raise ValueError(f"unknown field {foreign[0]:.40}")
    unpack = zlib.decompressobj()
    payload = unpack.decompress(fields.get("data", b""), _MAX_BYTES)
    if not unpack.eof or json.loads(payload) != [TASK, None, [job_of(ticket_id)], {}]:
        raise ValueError("unknown payload")
