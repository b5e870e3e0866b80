"""The HTTP server's connections: limits on number, memory and time that hold before any authentication.

h11 keeps at most `_HEAD_BYTES` of an unfinished head or trailer, and reads one request at a time. httptools has no such
limit, and creates objects for each of the thousands of pipelined requests in a packet.
"""

from __future__ import annotations

import asyncio
import json
import resource
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Self, cast

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from jobs.settings import Settings
from service.http.problems import MEDIA_TYPE, document
from service.http.streams import STREAM, Stream

_HEAD_BYTES: Final = 64 * 1024
"""Maximum bytes of a request's head, and of the trailers after a chunked body."""
_FREE_PIECES: Final = 4096
_PIECE_BYTES: Final = 256
"""Least average size of a body's pieces (chunks or packets) after the first `_FREE_PIECES`."""
_STOP_SECONDS: Final = 5
"""Seconds that open connections (downloads, event streams) have to end after a stop signal."""
_DESCRIPTORS_PER_CONNECTION: Final = 2
"""A connection, and the file that its request sends or receives."""
_SPARE_DESCRIPTORS: Final = 64
"""File descriptors for Redis, logs and probes."""
_RETRY_SECONDS: Final = 5


@dataclass(frozen=True)
class Limits:
    """Limits of a connection."""

    connections: int
    """Maximum number of open connections."""
    head_seconds: float
    """Maximum seconds from the start of a connection, or the end of a response, to the end of the next head."""
    send_seconds: float
    """Maximum seconds for which a client may read nothing of a response."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Limits of the settings; fewer connections if this process may open only few files."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = _SPARE_DESCRIPTORS + min(settings.http_max_streams, files // 4)
        possible = max(8, (files - spare) // _DESCRIPTORS_PER_CONNECTION)
        most = settings.http_max_connections
        if files != resource.RLIM_INFINITY:
            most = min(most, possible)
        return cls(most, settings.http_head_seconds, settings.download_idle_seconds)


def server_config(app: FastAPI, settings: Settings, **more: Any) -> uvicorn.Config:
    """The configuration of the HTTP server; `more` are further arguments of uvicorn.Config."""
    return uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", partial(Connection, limits=Limits.of(settings))),
        ws="none",
        **{
            "timeout_graceful_shutdown": _STOP_SECONDS,
            "server_header": False,
            "log_config": None,
            "access_log": False,  # the service writes its own access log
            **more,
        },
    )


class Requests(h11.Connection):
    """h11's parser, with two more rules.

    A body in tiny pieces is refused: each piece costs as much time as a large one. A request with two statements of
    its length is refused: a proxy may believe the other one, and take a part of the body for another request.
    """

    _pieces = _bytes = 0

    def next_event(self) -> Any:
        """Return the next event. Raises RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > _FREE_PIECES and self._bytes < _PIECE_BYTES * self._pieces:
                raise h11.RemoteProtocolError("a body in tiny pieces")
        return event


class Connection(H11Protocol):
    """One connection. The connection waits if no request of its client is in progress."""

    def __init__(self, *args: Any, limits: Limits, **more: Any) -> None:
        super().__init__(*args, **more)
        self.conn = Requests(h11.SERVER, _HEAD_BYTES)
        self._limits = limits
        self._waits_since = 0.0
        self._wait: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def stream(self) -> Stream | None:
        """The event stream, or the wait for a job, that the connection serves."""
        return None if self.waits else self.cycle.scope.get("state", {}).get(STREAM)

    def shutdown(self) -> None:
        """Let the request in progress end; an event stream ends at once."""
        if (stream := self.stream) is not None:
            stream.end()
        super().shutdown()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_waiting()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()
        for timer in (self._wait, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._start_waiting()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP, or whose head or trailers are too long."""
        unread, _ = self.conn.trailing_data
        if len(unread) > _HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head is longer than {_HEAD_BYTES:,} bytes")
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "the request is not valid HTTP/1.1")

    def pause_writing(self) -> None:
        """Start the time limit of a client that does not read."""
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self._limits.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """End the time limit of a client that does not read."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def _start_waiting(self) -> None:
        if self._wait is not None:
            self._wait.cancel()
        self._waits_since = self.loop.time()
        self._wait = self.loop.call_later(self._limits.head_seconds, self._waited_too_long)

    def _waited_too_long(self) -> None:
        if not self.waits or self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            seconds = self._limits.head_seconds
            detail = f"the head of the request took longer than {seconds:g} s (SKIPVSR_HTTP_HEAD_SECONDS)"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, detail)
        else:
            self.transport.close()

    def _make_room(self) -> None:
        """Beyond the limit, close the connection that waits longest; refuse this one if all others are at work.

        Event streams have a limit of their own, and do not count.
        """
        open_ones = [c for c in self.connections if isinstance(c, Connection) and not c.transport.is_closing()]
        others = [c for c in open_ones if c is not self and c.stream is None]
        if len(others) < self._limits.connections:
            return
        waiting = [c for c in others if c.waits]
        if waiting:
            min(waiting, key=lambda c: c._waits_since).transport.abort()
        else:
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the server serves {self._limits.connections} connections (SKIPVSR_HTTP_MAX_CONNECTIONS); "
                "try again later",
                f"Retry-After: {_RETRY_SECONDS}\r\n",
            )

    def _refuse(self, status: HTTPStatus, detail: str, headers: str = "") -> None:
        """Send a problem document, unless a response has begun, and close the connection."""
        if self.waits or not self.cycle.response_started:
            found = document(status, status.phrase, detail)
            body = json.dumps(found.model_dump())
            self.transport.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {MEDIA_TYPE}\r\n{headers}"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
            )
        self.transport.close()
