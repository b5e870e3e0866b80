"""Webhooks to deliver. A job's change of state and its webhook are a single step in Redis: neither exists alone.

A process that delivers claims due webhooks for a while. If the process dies, the claim ends, and the webhook is due
again. A newer webhook for the same job and state replaces an older one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast

from jobs.keys import PREFIX, WEBHOOKS, webhook_key
from jobs.schema import Job
from jobs.store.connection import asynchronous, unavailable
from jobs.store.hashes import from_hash
from jobs.store.scripts import CLAIM_WEBHOOKS, END_WEBHOOK

log = logging.getLogger(__name__)

_CLAIM_SECONDS: Final = 60


@dataclass(frozen=True)
class Delivery:
    """A webhook, claimed for one attempt."""

    id: str
    message: int
    """Unique number: the time of the change in microseconds."""
    tries: int
    """Number of attempts, with this one."""
    job: Job
    """The document as of the change."""

    @property
    def at(self) -> datetime:
        """Time of the change."""
        return datetime.fromtimestamp(self.message / 1e6, UTC)


class Outbox:
    """The webhooks in one Redis. Every method may raise StoreUnavailable."""

    def __init__(self, url: str) -> None:
        self._redis = asynchronous(url, socket_timeout=5.0, socket_connect_timeout=3.0)
        self._claim = self._redis.register_script(CLAIM_WEBHOOKS)
        self._end = self._redis.register_script(END_WEBHOOK)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def claim(self, most: int) -> list[Delivery]:
        """Take due webhooks, the longest due first."""
        with unavailable():
            due = cast("list[bytes]", await self._claim(keys=[WEBHOOKS], args=[PREFIX, _CLAIM_SECONDS, most]))
            async with self._redis.pipeline(transaction=False) as pipe:
                for delivery in due:
                    pipe.hgetall(webhook_key(delivery.decode()))
                rows: list[dict[bytes, bytes]] = await pipe.execute()
        found = []
        for name, row in zip(due, rows, strict=True):
            try:
                found.append(_delivery(name.decode(), row))
            except (KeyError, ValueError):  # of another version, or damaged: nobody can ever send the message
                log.exception("webhook %s cannot be read", name.decode())
                await self._drop(name.decode())
        return found

    async def delivered(self, delivery: Delivery) -> None:
        """Remove a webhook that has arrived."""
        await self._finish(delivery)

    async def give_up(self, delivery: Delivery, warning: str) -> None:
        """Remove an undeliverable webhook, and name the webhook in the job's warnings."""
        await self._finish(delivery, warning=warning)

    async def retry(self, delivery: Delivery, seconds: float) -> None:
        """Deliver a webhook again after some seconds."""
        await self._finish(delivery, again=round(seconds))

    async def postpone(self, delivery: Delivery, seconds: float) -> None:
        """Give a claim back: no attempt took place."""
        await self._finish(delivery, again=round(seconds), tries=-1)

    async def _drop(self, name: str) -> None:
        with unavailable():
            await self._redis.zrem(WEBHOOKS, name)
            await self._redis.delete(webhook_key(name))

    async def _finish(self, delivery: Delivery, again: int | str = "", tries: int = 0, warning: str = "") -> None:
        args: list[Any] = [PREFIX, delivery.id, delivery.message, again, tries, delivery.job.id, warning]
        with unavailable():
            await self._end(keys=[WEBHOOKS], args=args)


def _delivery(name: str, row: dict[bytes, bytes]) -> Delivery:
    return Delivery(name, int(row[b"message"]), int(row[b"tries"]), from_hash(row))
