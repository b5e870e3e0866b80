"""Requests for an upscaled video, from the first byte to the queued job, with optional idempotency key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from starlette.requests import ClientDisconnect

from jobs.errors import InvalidRequest, KeyReused, SkipVsrError
from jobs.idempotency import Reservation
from jobs.incoming import Incoming
from jobs.schema import Job, JobOptions
from jobs.settings import Settings
from service.admission import Admissions, Pace, options_from_text
from service.fetch import Fetcher
from service.http import body
from service.http.api_metrics import ApiMetrics
from service.http.body import Received
from service.http.packets import Blocks, Sink, Target, announced_bytes
from service.operations import Operations
from service.repeats import fingerprint, renewed

log = logging.getLogger(__name__)


class _Hashed:
    """Passes each block of a file on to `take`, and computes the file's digest if a key needs the digest."""

    def __init__(self, take: Callable[[bytes | bytearray], object], *, needed: bool) -> None:
        self._take, self._digest = take, sha256() if needed else None

    def write(self, data: bytes | bytearray) -> None:
        self._take(data)
        if self._digest is not None:
            self._digest.update(data)

    def digest(self) -> bytes:
        """Digest of the whole file; empty if nothing needs the digest."""
        return self._digest.digest() if self._digest is not None else b""


def _fingerprint(received: Received, file: _Hashed | None, options: JobOptions) -> str:
    """Digest of a request's video and options: equal requests have equal fingerprints."""
    named = f"{received.upload} {received.url}".strip()
    video = file.digest() if file is not None and not named else named.encode()
    return fingerprint(video, options)


@dataclass(frozen=True)
class _Video:
    """A complete video on the disk."""

    path: Path
    filename: str
    size: int
    adopted: Callable[[], None] = lambda: None
    """Called when a job has taken the file."""


class _Place:
    """The place of a video on the disk, until a job takes the video."""

    def __init__(self, operations: Operations, stack: AsyncExitStack, *, hashed: bool) -> None:
        self._operations, self._stack, self._hashed = operations, stack, hashed
        self._incoming: Incoming | None = None
        self.file: _Hashed | None = None

    async def open(self, expected: int) -> _Hashed:
        """Make the place for a video of `expected` bytes; 0: unknown."""
        upload = contextmanager_in_threadpool(self._operations.upload(expected))
        self._incoming = await self._stack.enter_async_context(upload)
        self.file = _Hashed(self._incoming.write, needed=self._hashed)
        return self.file

    async def close(self) -> Path:
        """Close the complete file; return its path."""
        assert self._incoming is not None, "no bytes have arrived"
        await run_in_threadpool(self._incoming.close)
        return self._incoming.path


class Uploads:
    """Turns requests into jobs."""

    def __init__(self, settings: Settings, metrics: ApiMetrics, admissions: Admissions, fetcher: Fetcher) -> None:
        self._settings, self._metrics, self._admissions = settings, metrics, admissions
        self._fetcher = fetcher

    async def receive(
        self, request: Request, key: str | None, operations: Operations, filename: str | None = None
    ) -> tuple[Job, bool]:
        """Queue a job for the request's video, or find the job that the idempotency key belongs to.

        `operations` are those of the request's caller. `filename`: the body is the file, and the address names it.
        Returns the job, and whether the request repeats an earlier one. Raises KeyReused if the key belongs to another
        file, or to other options.
        """
        with self.counted():
            if key is None:
                return await self._create(request, None, operations, filename), False
            found = await run_in_threadpool(operations.reserve_key, key)
            if not isinstance(found, Reservation):
                job, fingerprint = found
                await self._compare(request, fingerprint, operations, filename)
                return job, True
            async with renewed(found, operations):
                return await self._create(request, found, operations, filename), False

    async def _compare(self, request: Request, fingerprint: str, operations: Operations, filename: str | None) -> None:
        """Read a repeated upload without storing it. Raises KeyReused if the upload is another one."""
        file: _Hashed | None = None
        async with AsyncExitStack() as stack:

            async def begin() -> Target:
                nonlocal file
                repeated = operations.repeated_upload(announced_bytes(request, self._settings.max_upload_bytes))
                meter = await stack.enter_async_context(contextmanager_in_threadpool(repeated))
                file = _Hashed(lambda data: meter.count(len(data)), needed=True)
                return file

            received = await self._body(request, Sink(begin), filename)
        if fingerprint not in ("", _fingerprint(received, file, options_from_text(received.fields))):
            raise KeyReused("this Idempotency-Key belongs to another file or other options: send a new key")

    async def _body(self, request: Request, sink: Sink, filename: str | None) -> Received:
        limit = self._settings.max_upload_bytes
        return await body.receive(request, sink, max_file_bytes=limit, pace=Pace.of(self._settings), filename=filename)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a failed upload."""
        try:
            yield
        except SkipVsrError as error:
            self._metrics.rejected.labels(error.kind).inc()
            raise
        except ClientDisconnect:
            self._metrics.rejected.labels("client-gone").inc()
            raise

    async def _create(
        self, request: Request, reservation: Reservation | None, operations: Operations, filename: str | None
    ) -> Job:
        """Receive a video, admit it, queue a job, and count the bytes."""
        async with AsyncExitStack() as stack:
            place = _Place(operations, stack, hashed=reservation is not None)

            async def begin() -> Target:
                return await place.open(announced_bytes(request, self._settings.max_upload_bytes))

            received = await self._body(request, Sink(begin), filename)
            if received.upload:
                video = await self._uploaded(received, operations, stack)
            else:
                video = await self._arrived(request, received, place)
            options = options_from_text(received.fields)
            if reservation is not None:
                reservation = replace(reservation, fingerprint=_fingerprint(received, place.file, options))
            job = await self._queue(video, options, reservation, operations)
        self._metrics.upload_bytes.inc(video.size)
        request_id = request.state.request_id
        extra = {"job_id": job.id, "request_id": request_id, "bytes": video.size}
        log.info("job %s: queued by request %s", job.id, request_id, extra=extra)
        return job

    async def _uploaded(self, received: Received, operations: Operations, stack: AsyncExitStack) -> _Video:
        """The video of a resumable upload."""
        complete = operations.resumable.complete(received.upload)
        opened = await stack.enter_async_context(contextmanager_in_threadpool(complete))
        filename = received.filename or opened.upload.filename
        return _Video(opened.path, filename, opened.upload.length, opened.forget)

    async def _arrived(self, request: Request, received: Received, place: _Place) -> _Video:
        """The video that the request or another host has sent."""
        filename, size = received.filename, received.size_bytes
        if received.url:
            options_from_text(received.fields)  # before another host is asked
            filename, size = await self._fetch(request, received, place)
        return _Video(await place.close(), filename, size)

    async def _fetch(self, request: Request, received: Received, place: _Place) -> tuple[str, int]:
        """Fetch a video while the client waits; return its name and size."""
        async with self._fetcher.open(received.url) as remote:
            blocks = Blocks(await place.open(remote.size))
            async for block in remote.blocks:
                await blocks.add(block)
                if await request.is_disconnected():
                    raise ClientDisconnect
            await blocks.flush()
        if not blocks.size:
            raise InvalidRequest("the file at this URL is empty")
        return received.filename or remote.filename, blocks.size

    async def _queue(
        self, video: _Video, options: JobOptions, reservation: Reservation | None, operations: Operations
    ) -> Job:
        """Admit a video and queue its job."""
        await run_in_threadpool(operations.check_model, options.model)
        scale = await run_in_threadpool(operations.scale_of, options.model)
        admission = await self._admissions.admit(video.path, options, scale)
        job = await run_in_threadpool(operations.submit, video.path, video.filename, admission, reservation)
        await run_in_threadpool(video.adopted)
        return job
