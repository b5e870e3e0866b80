"""Repeated requests for a job: the fingerprint of a request, and its idempotency key while the request is received."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256

import anyio.to_thread

from jobs import idempotency
from jobs.errors import StoreUnavailable
from jobs.idempotency import Reservation
from jobs.schema import JobOptions
from service.operations import Operations


def fingerprint(video: bytes, options: JobOptions) -> str:
    """Digest of a request: equal videos with equal options have equal fingerprints. `video` is the file's digest."""
    return sha256(video + options.model_dump_json().encode()).hexdigest()


@asynccontextmanager
async def renewed(reservation: Reservation, operations: Operations) -> AsyncIterator[None]:
    """Renew a reservation during the block, and release it if the block fails."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(idempotency.RENEW_SECONDS)
            with suppress(StoreUnavailable):
                await anyio.to_thread.run_sync(operations.renew_key, reservation)

    renewal = asyncio.create_task(renew())
    try:
        yield
    except BaseException:
        with suppress(StoreUnavailable):  # the reservation then expires by itself
            await anyio.to_thread.run_sync(operations.release_key, reservation)
        raise
    finally:
        renewal.cancel()
