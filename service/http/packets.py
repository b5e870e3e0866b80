"""A request's body: its packets in time, and blocks of bytes for a file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

import anyio.to_thread
from starlette.requests import Request

from service.admission import Pace, oversized

FORM_OVERHEAD_BYTES: Final = 1 << 20
"""Bytes allowed for boundaries, part headers and text fields, in addition to the file."""
_BLOCK_BYTES: Final = 128 * 1024
"""Least size of a write, except for the last write: small packets must not need a thread each."""


class Target(Protocol):
    """Receives the bytes of a file."""

    def write(self, data: bytes | bytearray) -> None:
        """Take the next bytes of the file; called in a thread."""


class Blocks:
    """Collects packets, and passes blocks on to a target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._block = bytearray()
        self.size = 0

    async def add(self, data: bytes | bytearray) -> None:
        """Take bytes; write them when there are enough."""
        self.size += len(data)
        if not self._block and len(data) >= _BLOCK_BYTES:
            await self._write(data)  # no copy
            return
        self._block += data
        if len(self._block) >= _BLOCK_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what has been collected."""
        block, self._block = self._block, bytearray()
        if block:
            await self._write(block)

    async def _write(self, data: bytes | bytearray) -> None:
        await anyio.to_thread.run_sync(self._target.write, data)


class Sink:
    """The place of a request's file. The place is made when a file begins, because some requests have none."""

    def __init__(self, begin: Callable[[], Awaitable[Target]]) -> None:
        self._begin = begin
        self._blocks: Blocks | None = None

    async def open(self) -> Blocks:
        """Make the place once."""
        if self._blocks is None:
            self._blocks = Blocks(await self._begin())
        return self._blocks


async def packets(request: Request, pace: Pace) -> AsyncIterator[bytes]:
    """Yield the body's packets. Raises UploadStalled if they arrive too slowly, and ClientDisconnect."""
    stream = request.stream()
    while (packet := await pace.next(stream)) is not None:
        pace.received(len(packet))
        yield packet


def content_type(request: Request) -> str:
    """Return the media type of the body, in small letters and without parameters; empty if the request has none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def content_length(request: Request) -> int:
    """Return the body size from Content-Length, or 0 if unknown."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isdecimal() else 0


def announced_bytes(request: Request, max_file_bytes: int) -> int:
    """Return the body size from Content-Length, or 0 if unknown. Raises TooLarge before any byte is read."""
    size = content_length(request)
    if size > max_file_bytes + FORM_OVERHEAD_BYTES:
        raise oversized(max_file_bytes)
    return size
