"""Input and output of the client: HTTP by httpx, waiting, and blocking functions.

The methods of `AsyncTransport` suspend. The same methods of `BlockingTransport` never do (`skipvsr_client.blocking`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import httpx
from httpx_sse import EventSource, ServerSentEvent

T = TypeVar("T")


@dataclass(frozen=True)
class Body:
    """Bytes of a request, made anew for each attempt."""

    pieces: Callable[[], Iterator[bytes]]
    sent: Callable[[int], None]
    """Called with the size of each piece that was sent."""


@dataclass(frozen=True)
class Call:
    """A request to the server."""

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] | None = None
    files: Mapping[str, Any] | None = None
    """Files of a form. Each attempt reads them from the start."""
    body: Body | None = None

    def content(self) -> dict[str, Any]:
        """The arguments of httpx, without `body`."""
        parts = {
            "params": self.params,
            "headers": self.headers,
            "json": self.json,
            "data": self.form,
            "files": self.files,
        }
        return {name: part for name, part in parts.items() if part is not None}


class Transport(Protocol):
    """Input and output, asynchronously."""

    async def send(self, call: Call) -> httpx.Response:
        """Send a request; the response's content is read later. Raises httpx.TransportError."""

    async def read(self, response: httpx.Response) -> None:
        """Read the content of a response."""

    async def end(self, response: httpx.Response) -> None:
        """Close a response."""

    def pieces(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """The content of a response, piece by piece."""

    def events(self, response: httpx.Response) -> AsyncIterator[ServerSentEvent]:
        """The server-sent events in a response."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function that may block."""

    async def close(self) -> None:
        """Close all connections."""


class AsyncTransport:
    """Input and output in an event loop."""

    def __init__(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    async def send(self, call: Call) -> httpx.Response:
        content = _pieces_in_threads(call.body) if call.body is not None else None
        request = self._http.build_request(call.method, call.path, content=content, **call.content())
        return await self._http.send(request, stream=True)

    async def read(self, response: httpx.Response) -> None:
        await response.aread()

    async def end(self, response: httpx.Response) -> None:
        await response.aclose()

    def pieces(self, response: httpx.Response) -> AsyncIterator[bytes]:
        return response.aiter_bytes(1 << 18)

    def events(self, response: httpx.Response) -> AsyncIterator[ServerSentEvent]:
        return EventSource(response).aiter_sse()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        return await anyio.to_thread.run_sync(function, *args)

    async def close(self) -> None:
        await self._http.aclose()


class BlockingTransport:
    """Input and output that blocks: no method ever suspends."""

    def __init__(self, **options: Any) -> None:
        self._http = httpx.Client(**options)

    async def send(self, call: Call) -> httpx.Response:
        content = _counted(call.body) if call.body is not None else None
        request = self._http.build_request(call.method, call.path, content=content, **call.content())
        return self._http.send(request, stream=True)

    async def read(self, response: httpx.Response) -> None:
        response.read()

    async def end(self, response: httpx.Response) -> None:
        response.close()

    async def pieces(self, response: httpx.Response) -> AsyncIterator[bytes]:
        for piece in response.iter_bytes(1 << 18):
            yield piece

    async def events(self, response: httpx.Response) -> AsyncIterator[ServerSentEvent]:
        for event in EventSource(response).iter_sse():
            yield event

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        return function(*args)

    async def close(self) -> None:
        self._http.close()


async def _pieces_in_threads(body: Body) -> AsyncIterator[bytes]:
    pieces = body.pieces()
    while (piece := await anyio.to_thread.run_sync(next, pieces, None)) is not None:
        yield piece
        body.sent(len(piece))


def _counted(body: Body) -> Iterator[bytes]:
    for piece in body.pieces():
        yield piece
        body.sent(len(piece))
