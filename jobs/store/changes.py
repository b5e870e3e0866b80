"""Changes of jobs: subscription, and all changes since a number.

Redis numbers every change of a job's document and every removal, and publishes the number in the same step. After an
interruption, a reader asks for all changes after the last known number: no final state is ever missed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self, cast

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from jobs.errors import StoreUnavailable
from jobs.keys import CHANGE, CHANGES, EVENTS, REMOVED, job_key, owner_key, state_key
from jobs.schema import Job, JobState
from jobs.store.connection import asynchronous, unavailable
from jobs.store.hashes import from_hash

_ACTIVE = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)
_QUIET_SECONDS = 5.0
"""Without a message for this time, the reader checks that none got lost."""


class Document(NamedTuple):
    """A job's document."""

    job: Job
    number: int
    """Number of the last change in the document."""


class Change(NamedTuple):
    """A change of a job's document, or the removal of a job."""

    job_id: str
    owner: str | None
    """None: unknown."""
    number: int
    removed: bool
    moved: bool = True
    """Whether other jobs may have moved in the queue."""

    @classmethod
    def parse(cls, message: bytes) -> Self:
        """Read a message of the channel."""
        kind, job_id, number, owner = message.decode().split(" ", 3)
        return cls(job_id, owner, int(number), kind == "removed", kind != "changed")


class Changes:
    """Asynchronous reader of the changes in one Redis. Every method may raise StoreUnavailable."""

    def __init__(self, url: str) -> None:
        # Without retries: a subscription that the client renews by itself hides that messages got lost.
        never = Retry(NoBackoff(), 0)
        self._redis = asynchronous(url, socket_timeout=5.0, socket_connect_timeout=3.0, retry=never)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    @asynccontextmanager
    async def subscribed(self) -> AsyncIterator[AsyncIterator[Change]]:
        """Subscribe, and yield an endless iterator of changes."""
        with unavailable():
            async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                await pubsub.subscribe(EVENTS)
                await pubsub.get_message(timeout=_QUIET_SECONDS)  # the confirmation
                yield self._messages(pubsub, await self.last())

    async def _messages(self, pubsub: Any, seen: int) -> AsyncIterator[Change]:
        expected = seen
        while True:
            message = await pubsub.get_message(timeout=_QUIET_SECONDS)
            if message is not None:
                change = Change.parse(message["data"])
                seen = max(seen, change.number)
                yield change
            elif expected > seen:
                raise StoreUnavailable("Redis sent no message about a change.")
            else:
                expected = await self.last()

    async def last(self) -> int:
        """Number of the last change; 0 if no job has changed."""
        with unavailable():
            return int(await self._redis.get(CHANGE) or 0)

    async def read(self, job_ids: Iterable[str]) -> dict[str, Document]:
        """Documents of the jobs, without jobs that do not exist."""
        with unavailable():
            async with self._redis.pipeline(transaction=False) as pipe:
                wanted = list(job_ids)
                for job_id in wanted:
                    pipe.hgetall(job_key(job_id))
                rows = zip(wanted, await pipe.execute(), strict=True)
                return {i: Document(from_hash(raw), int(raw.get(b"changed", 0))) for i, raw in rows if raw}

    async def active(self, owner: str | None) -> list[str]:
        """Ids of the unfinished jobs, of an owner or of all owners."""
        with unavailable():
            ids = cast("set[bytes]", await self._redis.sunion([state_key(state) for state in _ACTIVE]))
            if owner is not None:
                ids &= cast("set[bytes]", await self._redis.smembers(owner_key(owner)))
            return sorted(job_id.decode() for job_id in ids)

    async def since(self, number: int, owner: str | None = None) -> list[Change]:
        """The last change of every job that changed or was removed after a number; only removals have an owner.

        `owner` leaves out changes, but no removals, of other owners' jobs.
        """
        above: Any = f"({number}"
        with unavailable():
            changed: Any = await self._redis.zrangebyscore(CHANGES, above, "+inf", withscores=True)
            removed: Any = await self._redis.zrangebyscore(REMOVED, above, "+inf", withscores=True)
            if owner is not None:
                own = cast("set[bytes]", await self._redis.smembers(owner_key(owner)))
                changed = [(member, score) for member, score in changed if member in own]
        found = [Change(member.decode(), None, int(score), removed=False) for member, score in changed]
        for member, score in removed:
            job_id, _, owner = member.decode().partition(" ")
            found.append(Change(job_id, owner, int(score), removed=True))
        return sorted(found, key=lambda change: change.number)
