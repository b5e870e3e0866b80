"""Uploads over HTTP, from the first byte to the queued job, with optional idempotency key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from starlette.requests import ClientDisconnect

from jobs.errors import KeyReused, SkipVsrError
from jobs.idempotency import Reservation
from jobs.schema import Job, JobOptions
from jobs.settings import Settings
from service.admission import Admissions, Pace, options_from_text
from service.http import form
from service.http.api_metrics import ApiMetrics
from service.operations import Operations
from service.repeats import fingerprint, renewed

log = logging.getLogger(__name__)


class _Fingerprint:
    """Digest of an upload's file and options; passes each packet of the file on to `take`."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take, self._digest = take, sha256()

    def write(self, data: bytes) -> None:
        self._take(data)
        self._digest.update(data)

    def of(self, options: JobOptions) -> str:
        """The fingerprint of the whole file with these options."""
        return fingerprint(self._digest.digest(), options)


class Uploads:
    """Turns upload requests into jobs."""

    def __init__(self, settings: Settings, metrics: ApiMetrics, admissions: Admissions) -> None:
        self._settings, self._metrics, self._admissions = settings, metrics, admissions

    async def receive(self, request: Request, key: str | None, operations: Operations) -> tuple[Job, bool]:
        """Queue a job for the request's video, or find the job that the idempotency key belongs to.

        `operations` are those of the request's caller.
        Returns the job, and whether the request repeats an earlier one. Raises KeyReused if the key belongs to another
        file, or to other options.
        """
        with self._counted():
            if key is None:
                return await self._create(request, None, operations), False
            found = await run_in_threadpool(operations.reserve_key, key)
            if not isinstance(found, Reservation):
                job, fingerprint = found
                await self._compare(request, fingerprint, operations)
                return job, True
            async with renewed(found, operations):
                return await self._create(request, found, operations), False

    async def _compare(self, request: Request, fingerprint: str, operations: Operations) -> None:
        """Read a repeated upload without storing it. Raises KeyReused if the upload is another one."""
        limit = self._settings.max_upload_bytes
        announced = form.announced_bytes(request, limit)
        async with contextmanager_in_threadpool(operations.repeated_upload(announced)) as meter:
            upload = _Fingerprint(lambda data: meter.count(len(data)))
            received = await form.receive(request, upload, max_file_bytes=limit, pace=self._pace())
        if fingerprint not in ("", upload.of(options_from_text(received.fields))):
            raise KeyReused("this Idempotency-Key belongs to another file or other options: send a new key")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a failed upload."""
        try:
            yield
        except SkipVsrError as error:
            self._metrics.rejected.labels(error.kind).inc()
            raise
        except ClientDisconnect:
            self._metrics.rejected.labels("client-gone").inc()
            raise

    async def _create(self, request: Request, reservation: Reservation | None, operations: Operations) -> Job:
        """Receive a video, admit it, queue a job, and count the bytes."""
        job, size = await self._receive(request, reservation, operations)
        self._metrics.upload_bytes.inc(size)
        request_id = request.state.request_id
        extra = {"job_id": job.id, "request_id": request_id, "bytes": size}
        log.info("job %s: queued by request %s", job.id, request_id, extra=extra)
        return job

    def _pace(self) -> Pace:
        return Pace(self._settings.upload_idle_seconds, self._settings.upload_min_rate)

    async def _receive(
        self, request: Request, reservation: Reservation | None, operations: Operations
    ) -> tuple[Job, int]:
        """Return the new job and the size of its file in bytes."""
        limit = self._settings.max_upload_bytes
        announced = form.announced_bytes(request, limit)
        async with contextmanager_in_threadpool(operations.upload(announced)) as incoming:
            upload = _Fingerprint(incoming.write) if reservation else incoming
            received = await form.receive(request, upload, max_file_bytes=limit, pace=self._pace())
            await run_in_threadpool(incoming.close)
            options = options_from_text(received.fields)
            await run_in_threadpool(operations.check_model, options.model)
            scale = await run_in_threadpool(operations.scale_of, options.model)
            admission = await self._admissions.admit(incoming.path, options, scale)
            if reservation and isinstance(upload, _Fingerprint):
                reservation = replace(reservation, fingerprint=upload.of(options))
            job = await run_in_threadpool(operations.submit, incoming.path, received.filename, admission, reservation)
        return job, received.size_bytes
