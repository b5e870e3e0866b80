"""Delivery of webhooks (Standard Webhooks): signed messages about jobs, repeated for about a day until they arrive.

The API process delivers, in its event loop: a receiver that hangs costs no thread, and no worker. Several API processes
share the webhooks. A message may arrive twice, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

import httpx
from fastapi.concurrency import run_in_threadpool
from standardwebhooks import Webhook

from jobs.errors import InvalidRequest, StoreUnavailable
from jobs.schema import Job
from jobs.settings import Settings
from jobs.store.outbox import Delivery, Outbox
from service.admission import webhook_guard
from service.http.api_metrics import ApiMetrics
from service.http.responses import JobDocument
from service.outgoing import async_client
from service.tasks import end

log = logging.getLogger(__name__)

_TIMEOUT: Final = httpx.Timeout(10.0, connect=5.0)
_TOTAL_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 1.0
_AT_ONCE: Final = 64
_AT_ONCE_TO_HOST: Final = 4
_FAILURE_CHARACTERS: Final = 200
"""Most characters of a failure: some messages repeat what the receiver sent."""
_BUSY_SECONDS: Final = 5.0
"""Time until the next attempt if a host has `_AT_ONCE_TO_HOST` deliveries."""


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts: exponential, with 20 % jitter."""

    first: float = 5.0
    factor: float = 4.0
    most: float = 6 * 3600.0
    until: float = 24 * 3600.0
    """Seconds after which a delivery is given up."""

    def pause(self, tries: int) -> float:
        """Seconds after so many attempts."""
        return min(self.most, self.first * self.factor ** min(tries - 1, 20)) * random.uniform(0.8, 1.2)


class Webhooks:
    """Delivers the webhooks of one Redis.

    Args:
        outbox: the webhooks.
        settings: with the secret, and the allowed receivers.
        metrics: counts deliveries.
        announced: completes documents for callers.
        backoff: pauses between attempts.
    """

    def __init__(
        self,
        outbox: Outbox,
        settings: Settings,
        metrics: ApiMetrics,
        announced: Callable[[Sequence[Job]], list[Job]],
        backoff: Backoff | None = None,
    ) -> None:
        self._outbox, self._metrics, self._announced = outbox, metrics, announced
        self._backoff = backoff or Backoff()
        secret = settings.webhook_secret
        self._signers = [Webhook(part) for part in secret.get_secret_value().split()] if secret else []
        self._http = async_client(webhook_guard(settings), _TIMEOUT)
        self._running: set[asyncio.Task[None]] = set()
        self._hosts: Counter[str] = Counter()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver during the block. Without a secret, webhooks wait."""
        poll = asyncio.create_task(self._poll()) if self._signers else None
        try:
            yield
        finally:
            if poll:
                await end([poll])  # first: it starts deliveries
            await end(self._running)
            await self._http.aclose()
            await self._outbox.close()

    async def _poll(self) -> None:
        while True:
            try:
                await self._start_due()
            except StoreUnavailable as error:
                log.debug("webhooks wait for Redis: %s", error)
            except Exception:  # one broken document must not end the deliveries
                log.exception("webhooks failed; trying again")
            await asyncio.sleep(_POLL_SECONDS)

    async def _start_due(self) -> None:
        free = _AT_ONCE - len(self._running)
        for delivery in await self._outbox.claim(free) if free else ():
            host = _host(delivery)
            if self._hosts[host] >= _AT_ONCE_TO_HOST:
                await self._outbox.postpone(delivery, _BUSY_SECONDS)
                continue
            self._hosts[host] += 1
            task = asyncio.create_task(self._deliver(delivery, host))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _deliver(self, delivery: Delivery, host: str) -> None:
        try:
            await self._attempt(delivery, host)
        except asyncio.CancelledError:
            with suppress(StoreUnavailable):  # the claim then ends by itself
                await self._outbox.postpone(delivery, 0)
            raise
        except StoreUnavailable:
            log.warning("webhook %s: Redis does not answer; the message may arrive twice", _name(delivery))
        except Exception:
            log.exception("webhook %s failed", _name(delivery))
        finally:
            self._hosts[host] -= 1

    async def _attempt(self, delivery: Delivery, host: str) -> None:
        failure, least, final = await self._post(delivery)
        extra = {"job_id": delivery.job.id}
        if not failure:
            await self._outbox.delivered(delivery)
            self._metrics.webhooks.labels("delivered").inc()
            log.info("webhook %s: delivered to %s", _name(delivery), host, extra=extra)
            return
        pause = max(least, self._backoff.pause(delivery.tries))
        age = (datetime.now(UTC) - delivery.at).total_seconds()
        if final or age + pause > self._backoff.until:
            tries = "1 attempt" if delivery.tries == 1 else f"{delivery.tries} attempts"
            message = f"The webhook {_type(delivery)} to {host} was given up after {tries}: {failure}."
            await self._outbox.give_up(delivery, message)
            self._metrics.webhooks.labels("given_up").inc()
            log.warning("webhook %s: %s", _name(delivery), message, extra=extra)
        else:
            await self._outbox.retry(delivery, pause)
            self._metrics.webhooks.labels("failed").inc()
            log.info("webhook %s: %s; again in %.0f s", _name(delivery), failure, pause, extra=extra)

    async def _post(self, delivery: Delivery) -> tuple[str, float, bool]:
        """Send the message once; return the failure, the least pause, and whether a repetition is pointless.

        Nobody reads the body of the answer: its status says all.
        """
        (job,) = await run_in_threadpool(self._announced, [delivery.job])
        body = _body(delivery, job)
        request = self._http.build_request(
            "POST", str(delivery.job.webhook), content=body, headers=self._headers(delivery, body)
        )
        try:
            async with asyncio.timeout(_TOTAL_SECONDS):
                answer = await self._http.send(request, stream=True)
                await answer.aclose()
        except InvalidRequest as error:
            return str(error), 0.0, True
        except TimeoutError:
            return f"no answer within {_TOTAL_SECONDS:g} s", 0.0, False
        except httpx.HTTPError as error:
            return (str(error) or type(error).__name__)[:_FAILURE_CHARACTERS], 0.0, False
        except Exception as error:  # whatever an address provokes is a failed attempt
            log.exception("webhook %s failed", _name(delivery))
            return type(error).__name__, 0.0, False
        if answer.is_success:
            return "", 0.0, False
        return f"status {answer.status_code}", _retry_after(answer), answer.status_code == httpx.codes.GONE

    def _headers(self, delivery: Delivery, body: str) -> dict[str, str]:
        now, message_id = datetime.now(UTC), f"msg_{delivery.job.id}_{delivery.message}"
        return {
            "Content-Type": "application/json",
            "User-Agent": f"SkipVSR/{version('skipvsr')}",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signer.sign(message_id, now, body) for signer in self._signers),
        }


def _body(delivery: Delivery, job: Job) -> str:
    head = json.dumps({"type": _type(delivery), "timestamp": delivery.at.isoformat()})
    return f'{head[:-1]}, "data": {JobDocument.of(job).model_dump_json()}}}'


def _type(delivery: Delivery) -> str:
    return f"job.{delivery.job.state}"


def _name(delivery: Delivery) -> str:
    return f"{_type(delivery)} of job {delivery.job.id}"


def _host(delivery: Delivery) -> str:
    return urlsplit(str(delivery.job.webhook)).hostname or ""


def _retry_after(answer: httpx.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), 3600.0) if text.isascii() and text.isdecimal() else 0.0
