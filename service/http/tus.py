"""Resumable uploads by the tus protocol 1.0 (https://tus.io/protocols/resumable-upload).

Extensions: creation, creation-with-upload, termination, checksum, expiration. Decision 16 says why no library does it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Final, TypeVar

import anyio
from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool

from jobs.errors import ChecksumMismatch, InvalidRequest, TooLarge, UnsupportedMedia, UploadBusy
from jobs.incoming import Incoming
from jobs.resumable import OpenUpload, Upload
from jobs.settings import Settings
from service.admission import Pace, oversized
from service.http.packets import Blocks, announced_bytes, content_type, packets
from service.http.upload import Uploads
from service.names import harmless_name
from service.operations import Operations

VERSION: Final = "1.0.0"
EXTENSIONS: Final = "creation,creation-with-upload,termination,checksum,expiration"
ALGORITHMS: Final = ("sha1", "sha256", "sha512")
CONTENT_TYPE: Final = "application/offset+octet-stream"
_MAX_METADATA: Final = 4096
_WATCH_SECONDS: Final = 0.25
"""Seconds between two looks whether another request waits for the upload."""
_WAIT_SECONDS: Final = 5.0
"""Seconds to wait for the request that receives bytes to end."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Status:
    """An upload in the form for its client."""

    upload: Upload
    offset: int
    expires: datetime

    @classmethod
    def of(cls, opened: OpenUpload) -> Status:
        return cls(opened.upload, opened.offset, opened.expires)

    def headers(self, *, all_of_them: bool = False) -> dict[str, str]:
        """Headers of a response; `all_of_them` adds the constant headers."""
        found = {
            "Upload-Offset": str(self.offset),
            "Upload-Expires": format_datetime(self.expires, usegmt=True),
            "Cache-Control": "no-store",
        }
        if all_of_them:
            found["Upload-Length"] = str(self.upload.length)
            if self.upload.metadata:
                found["Upload-Metadata"] = self.upload.metadata
        return found


class _Chunk:
    """The bytes of a request, with the client's checksum.

    Args:
        incoming: the upload.
        promise: the header Upload-Checksum; None: no checksum.
    """

    def __init__(self, incoming: Incoming, promise: str | None) -> None:
        self._incoming = incoming
        self._digest: hashlib._Hash | None = None
        self._expected = b""
        if promise is not None:
            self._digest, self._expected = _checksum(promise)

    @property
    def checked(self) -> bool:
        """Whether the client promises a checksum."""
        return self._digest is not None

    def write(self, data: bytes | bytearray) -> None:
        self._incoming.write(data)
        if self._digest is not None:
            self._digest.update(data)

    def verify(self) -> None:
        """Raise ChecksumMismatch if the bytes do not match the checksum."""
        if self._digest is not None and not hmac.compare_digest(self._digest.digest(), self._expected):
            raise ChecksumMismatch("the bytes do not match Upload-Checksum and were dropped: send them again")


class Tus:
    """The protocol's operations. `operations` are always those of the request's caller."""

    def __init__(self, settings: Settings, uploads: Uploads) -> None:
        self._settings, self._uploads = settings, uploads

    async def create(
        self, request: Request, length: int, metadata: str, checksum: str | None, operations: Operations
    ) -> Status:
        """Create an upload, with the bytes in the request's body, if any."""
        with self._uploads.counted():
            if length > self._settings.max_upload_bytes:
                raise oversized(self._settings.max_upload_bytes)
            filename = _filename(metadata)
            upload = await run_in_threadpool(operations.resumable.create, length, filename, metadata)
            if content_type(request) != CONTENT_TYPE:
                return await self.status(upload.id, operations)
            try:
                return await self._receive(request, upload.id, 0, checksum, operations)
            except BaseException:  # the client does not learn the upload's address
                with anyio.CancelScope(shield=True):
                    await self.remove(upload.id, operations)
                raise

    async def append(
        self, request: Request, upload_id: str, offset: int, checksum: str | None, operations: Operations
    ) -> Status:
        """Add the bytes of the request's body to an upload."""
        with self._uploads.counted():
            if content_type(request) != CONTENT_TYPE:
                raise UnsupportedMedia(f"send the bytes with Content-Type: {CONTENT_TYPE}")
            return await self._receive(request, upload_id, offset, checksum, operations)

    async def status(self, upload_id: str, operations: Operations) -> Status:
        """Return an upload's state. A request that still receives bytes ends first: its connection may be dead."""

        def look() -> Status:
            with operations.resumable.open(upload_id) as opened:
                return Status.of(opened)

        return await self._alone(look, upload_id, operations)

    async def remove(self, upload_id: str, operations: Operations) -> None:
        """Remove an upload. A request that still receives bytes ends first."""

        def remove() -> None:
            with operations.resumable.open(upload_id) as opened:
                opened.remove()

        await self._alone(remove, upload_id, operations)

    async def _alone(self, act: Callable[[], _Result], upload_id: str, operations: Operations) -> _Result:
        """Call `act` when no other request has the upload. Raises UploadBusy after some seconds."""
        for _ in range(int(_WAIT_SECONDS / _WATCH_SECONDS)):
            try:
                return await run_in_threadpool(act)
            except UploadBusy:
                await run_in_threadpool(operations.resumable.ask_to_stop, upload_id)
                await asyncio.sleep(_WATCH_SECONDS)
        return await run_in_threadpool(act)

    async def _receive(
        self, request: Request, upload_id: str, offset: int, checksum: str | None, operations: Operations
    ) -> Status:
        """Store the request's body. Without a checksum, the bytes of a broken connection count."""
        coming = announced_bytes(request, self._settings.max_upload_bytes)
        receiving = operations.resumable.receiving(upload_id, offset, coming)
        async with contextmanager_in_threadpool(receiving) as (opened, incoming):
            chunk = _Chunk(incoming, checksum)
            async with self._all_or_nothing(opened) if chunk.checked else nullcontext():
                await self._store(request, opened, chunk, coming)
                await run_in_threadpool(chunk.verify)
            await run_in_threadpool(opened.accept)
            return Status.of(opened)

    @asynccontextmanager
    async def _all_or_nothing(self, opened: OpenUpload) -> AsyncIterator[None]:
        """Drop the bytes that arrive during the block if the block fails, also by a crash."""
        before = opened.offset
        await run_in_threadpool(opened.begin_check)
        try:
            yield
        except BaseException:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(opened.discard, before)
            raise

    async def _store(self, request: Request, opened: OpenUpload, chunk: _Chunk, coming: int) -> None:
        """Write the body to the disk. Raises UploadBusy if another request asks for the upload."""
        left = opened.upload.length - opened.offset
        _check_size(coming, left)
        blocks = Blocks(chunk)
        with anyio.CancelScope() as scope:
            watch = asyncio.create_task(_watch(opened, scope))
            try:
                async for packet in packets(request, Pace.of(self._settings)):
                    _check_size(blocks.size + len(packet), left)
                    await blocks.add(packet)
            finally:
                watch.cancel()
                with anyio.CancelScope(shield=True):
                    await blocks.flush()
        if scope.cancelled_caught:
            raise UploadBusy("another request has asked for this upload: continue at its offset (HEAD)")


async def _watch(opened: OpenUpload, scope: anyio.CancelScope) -> None:
    while not opened.asked_to_stop():
        await asyncio.sleep(_WATCH_SECONDS)
    scope.cancel()


def _check_size(size: int, left: int) -> None:
    if size > left:
        raise TooLarge(f"only {left:,} bytes are missing from the upload (Upload-Length): send no more")


def _checksum(text: str) -> tuple[hashlib._Hash, bytes]:
    """A new digest, and its promised value."""
    algorithm, _, value = text.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise InvalidRequest(f"Upload-Checksum: {algorithm[:80]!r} is none of {', '.join(ALGORITHMS)}")
    return hashlib.new(algorithm, usedforsecurity=False), _decoded("Upload-Checksum", value)


def _filename(metadata: str) -> str:
    """The file's name in the metadata: pairs of a key and a value in Base64, with commas in between."""
    if len(metadata) > _MAX_METADATA:
        raise InvalidRequest(f"Upload-Metadata is longer than {_MAX_METADATA:,} bytes")
    pairs = dict(pair.strip().partition(" ")[::2] for pair in metadata.split(",") if pair.strip())
    values = {key: _decoded("Upload-Metadata", value) for key, value in pairs.items()}
    return harmless_name(values.get("filename", values.get("name", b"")).decode(errors="replace"))


def _decoded(header: str, value: str) -> bytes:
    try:
        return b64decode(value.strip(), validate=True)
    except ValueError as error:
        raise InvalidRequest(f"{header}: {value[:80]!r} is no Base64 text") from error
