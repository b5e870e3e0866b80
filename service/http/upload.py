"""Uploads over HTTP, from the first byte to the queued job, with optional idempotency key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from starlette.requests import ClientDisconnect

from jobs import idempotency
from jobs.errors import SkipVsrError, StoreUnavailable
from jobs.idempotency import Reservation
from jobs.schema import Job
from jobs.settings import Settings
from service.admission import Admissions, Pace, options_from_text
from service.http import form
from service.http.api_metrics import ApiMetrics
from service.operations import Operations

log = logging.getLogger(__name__)


class Uploads:
    """Turns upload requests into jobs."""

    def __init__(self, operations: Operations, settings: Settings, metrics: ApiMetrics, admissions: Admissions) -> None:
        self._operations, self._settings, self._metrics = operations, settings, metrics
        self._admissions = admissions

    async def receive(self, request: Request, key: str | None) -> Job:
        """Queue a job for the request's video, or return the job that the idempotency key belongs to."""
        if key is None:
            return await self._create(request, None)
        found = await run_in_threadpool(self._operations.reserve_key, key)
        if isinstance(found, Job):
            return found
        async with self._renewed(found):
            return await self._create(request, found)

    @asynccontextmanager
    async def _renewed(self, reservation: Reservation) -> AsyncIterator[None]:
        """Renew a reservation during the block, and release it if the block fails."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(idempotency.RENEW_SECONDS)
                with suppress(StoreUnavailable):
                    await run_in_threadpool(self._operations.renew_key, reservation)

        renewal = asyncio.create_task(renew())
        try:
            yield
        except BaseException:
            with suppress(StoreUnavailable):  # the reservation then expires by itself
                await run_in_threadpool(self._operations.release_key, reservation)
            raise
        finally:
            renewal.cancel()

    async def _create(self, request: Request, reservation: Reservation | None) -> Job:
        """Receive a video, admit it, queue a job, and count the outcome."""
        try:
            job, size = await self._receive(request, reservation)
        except SkipVsrError as error:
            self._metrics.rejected.labels(error.kind).inc()
            raise
        except ClientDisconnect:
            self._metrics.rejected.labels("client-gone").inc()
            raise
        self._metrics.upload_bytes.inc(size)
        request_id = request.state.request_id
        extra = {"job_id": job.id, "request_id": request_id, "bytes": size}
        log.info("job %s: queued by request %s", job.id, request_id, extra=extra)
        return job

    def _pace(self) -> Pace:
        return Pace(self._settings.upload_idle_seconds, self._settings.upload_min_rate)

    async def _receive(self, request: Request, reservation: Reservation | None) -> tuple[Job, int]:
        """Return the new job and the size of its file in bytes."""
        operations, limit = self._operations, self._settings.max_upload_bytes
        announced = form.announced_bytes(request, limit)
        async with contextmanager_in_threadpool(operations.upload(announced)) as incoming:
            received = await form.receive(request, incoming, max_file_bytes=limit, pace=self._pace())
            await run_in_threadpool(incoming.close)
            options = options_from_text(received.fields)
            await run_in_threadpool(operations.check_model, options.model)
            admission = await self._admissions.admit(incoming.path, options)
            job = await run_in_threadpool(operations.submit, incoming.path, received.filename, admission, reservation)
        return job, received.size_bytes
