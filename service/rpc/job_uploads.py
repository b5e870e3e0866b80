"""Uploads over gRPC, from the first message to the queued job, with optional idempotency key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, TypeVar

from jobs.errors import InvalidRequest, KeyReused
from jobs.idempotency import Reservation
from jobs.schema import Job, JobOptions
from jobs.settings import Settings
from service.admission import Admissions, Pace, oversized
from service.estimating import HEAD_BYTES, TAIL_BYTES, Ends
from service.names import harmless_name
from service.operations import Operations
from service.repeats import fingerprint, renewed
from service.rpc import call, messages
from service.threads import in_threads
from skipvsr.v1 import upscaler_pb2 as pb

Requests = AsyncIterator[pb.CreateJobRequest]
T = TypeVar("T")
M = TypeVar("M", bound=Any)
_KEY_CHARACTERS: Final = 255
_MOST: Final = {"head": HEAD_BYTES, "tail": TAIL_BYTES}
"""Bytes of the ends of a file."""


@dataclass(frozen=True)
class _Announced:
    """The first message of an upload."""

    filename: str
    options: JobOptions
    size: int | None
    """Size of the file in bytes; None if unknown."""


class JobUploads:
    """Turns uploads into jobs."""

    def __init__(self, settings: Settings, admissions: Admissions) -> None:
        self._settings, self._admissions = settings, admissions

    async def receive(self, requests: Requests, operations: Operations) -> tuple[Job, bool]:
        """Queue a job for an upload, or find the job that the idempotency key belongs to.

        `operations` are those of the caller. Returns the job, and whether the upload repeats an earlier one. Raises
        KeyReused if the key belongs to another file or other options.
        """
        pace = Pace.of(self._settings)
        first = await _next(requests, pace)
        if first is None or first.WhichOneof("part") != "config":
            raise InvalidRequest("the first message must be the config")
        announced = await self._checked(first.config, operations)
        upload = _Upload(requests, pace, announced, self._settings.max_upload_bytes)
        key = first.config.idempotency_key
        if not key:
            return await self._create(upload, None, operations), False
        if len(key) > _KEY_CHARACTERS or not key.isprintable():
            raise InvalidRequest(f"config.idempotency_key: use up to {_KEY_CHARACTERS} printable characters")
        found = await asyncio.to_thread(operations.reserve_key, key)
        if not isinstance(found, Reservation):
            job, known = found
            await self._compare(upload, known, operations)
            return job, True
        async with renewed(found, operations):
            return await self._create(upload, found, operations), False

    async def receive_ends(self, requests: AsyncIterator[pb.EstimateJobRequest]) -> tuple[pb.EstimateConfig, Ends]:
        """Receive the ends of a file, of which the config tells the size. Raises InvalidRequest, UploadStalled."""
        pace = Pace.of(self._settings)
        first = await _next(requests, pace)
        if first is None or first.WhichOneof("part") != "config":
            raise InvalidRequest("the first message must be the config")
        ends = {"head": bytearray(), "tail": bytearray()}
        while (request := await _next(requests, pace)) is not None:
            name = request.WhichOneof("part")
            if name not in ends:
                raise InvalidRequest("every message after the config must be of the head or the tail")
            ends[name] += getattr(request, name).data
            if len(ends[name]) > _MOST[name]:
                raise InvalidRequest(f"{name}: send at most {_MOST[name]:,} bytes")
        return first.config, Ends(bytes(ends["head"]), bytes(ends["tail"]), first.config.size_bytes)

    async def _checked(self, config: pb.UploadConfig, operations: Operations) -> _Announced:
        options = messages.options(config.options, config.webhook)
        await asyncio.to_thread(operations.check_model, options.model)
        size = config.size_bytes if config.HasField("size_bytes") else None
        return _Announced(harmless_name(config.filename), options, size)

    async def _create(self, upload: _Upload, reservation: Reservation | None, operations: Operations) -> Job:
        options = upload.announced.options
        async with in_threads(operations.upload(upload.checked_size())) as incoming:
            digest = await upload.into(incoming.write, hashed=reservation is not None)
            await asyncio.to_thread(incoming.close)
            scale = await asyncio.to_thread(operations.scale_of, options.model)
            admission = await self._admissions.admit(incoming.path, options, scale)
            if reservation is not None:
                reservation = replace(reservation, fingerprint=fingerprint(digest, options))
            name = upload.announced.filename
            return await asyncio.to_thread(operations.submit, incoming.path, name, admission, reservation)

    async def _compare(self, upload: _Upload, known: str, operations: Operations) -> None:
        """Read a repeated upload without storing it. Raises KeyReused if the upload is another one."""
        async with in_threads(operations.repeated_upload(upload.checked_size())) as meter:
            digest = await upload.into(lambda data: meter.count(len(data)), hashed=True)
        if known not in ("", fingerprint(digest, upload.announced.options)):
            raise KeyReused("this idempotency key belongs to another file or other options: send a new key")


class _Upload:
    """The file of an upload, which arrives in messages."""

    def __init__(self, requests: Requests, pace: Pace, announced: _Announced, limit: int) -> None:
        self._requests, self._pace, self._limit = requests, pace, limit
        self.announced = announced

    def checked_size(self) -> int:
        """Announced size in bytes; 0 if unknown. Raises TooLarge."""
        return self._checked(self.announced.size or 0)

    async def into(self, take: Callable[[bytes], object], *, hashed: bool) -> bytes:
        """Pass the file's bytes to `take`, in threads. Returns the file's digest if `hashed`, else nothing."""
        digest, size = sha256(), 0
        while (request := await _next(self._requests, self._pace)) is not None:
            if request.WhichOneof("part") != "chunk":
                raise InvalidRequest("every message after the config must be a chunk")
            data = request.chunk.data  # each access copies the bytes
            size = self._checked(size + len(data))
            await asyncio.to_thread(take, data)
            if hashed:
                await asyncio.to_thread(digest.update, data)
            call.entry().bytes = size
        if not size:
            raise InvalidRequest("the file is empty: send its bytes as chunks after the config")
        if self.announced.size not in (None, size):
            raise InvalidRequest(f"only {size:,} of {self.announced.size:,} bytes arrived: the upload was cut off")
        return digest.digest() if hashed else b""

    def _checked(self, size: int) -> int:
        if size > self._limit:
            raise oversized(self._limit)
        return size


async def _next(requests: AsyncIterator[M], pace: Pace) -> M | None:
    """Return the next message; None at the end. Raises UploadStalled if bytes of the file arrive too slowly."""
    request = await pace.next(requests)
    pace.received(request.ByteSize() if request is not None else 0)
    return request
