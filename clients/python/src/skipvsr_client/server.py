"""Requests to one server: errors become exceptions, and requests that are safe to repeat are repeated."""

from __future__ import annotations

import random
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from skipvsr_client.errors import ConnectionFailed, Refused, SkipVsrError, from_problem
from skipvsr_client.transport import Call, Transport

AWAY: Final = (502, 503, 504)
"""HTTP statuses of a starting server, of a server without Redis, and of a proxy without a server."""
_ANOTHER_WAY: Final = "too-many-streams"
"""Kind of error for which the client asks in another way instead of waiting."""
_NUMBER: Final = re.compile(r"^\[Errno -?\d+\] ")
"""The number of an operating system's error, before its words."""
_CONNECTING: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Errors before the request was sent: a repetition is safe for every request."""
OnAway = Callable[[str], None]


class Patience:
    """Waits between repetitions, longer each time, and gives up after `seconds` without success.

    Nothing is repeated before the server has ever been reached: the address may be wrong.

    Args:
        server: the server.
        seconds: time since the last success.
        on_away: called once with the trouble when waiting begins.
    """

    def __init__(self, server: Server, seconds: float, on_away: OnAway | None = None) -> None:
        self._server, self._seconds, self._on_away = server, seconds, on_away
        self.failures = 0
        self._since = time.monotonic()

    def succeeded(self) -> None:
        """Start anew: the server answered."""
        self.failures, self._since = 0, time.monotonic()

    async def wait(self, error: SkipVsrError, least: float | None = None) -> None:
        """Wait before a repetition, at least `least` seconds. Raises `error` if the time is over."""
        delay = max(least or 0.0, min(5.0, 0.2 * 2**self.failures) * random.uniform(0.75, 1.25))
        if not self._server.reached or time.monotonic() + delay - self._since > self._seconds:
            raise error
        if self.failures == 0 and self._on_away is not None:
            self._on_away(str(error))
        self.failures += 1
        await self._server.transport.sleep(delay)


class Server:
    """One server.

    Args:
        transport: input and output.
        url: address of the server, for messages.
        patience: seconds for which requests are repeated while the server is away.
    """

    def __init__(self, transport: Transport, url: str, patience: float) -> None:
        self.transport, self.url, self._seconds = transport, url, patience
        self.reached = False
        """Whether a connection has ever been established."""

    def patience(self, on_away: OnAway | None = None) -> Patience:
        """New patience for a sequence of requests."""
        return Patience(self, self._seconds, on_away)

    @asynccontextmanager
    async def opened(self, call: Call, patience: Patience) -> AsyncIterator[httpx.Response]:
        """Send an idempotent request; yield the successful response, before its content is read."""
        response = await self._answer(call, patience, repeat=True, pending=False)
        try:
            yield response
        except httpx.TransportError as error:
            raise self.failed(error) from error
        finally:
            await self.transport.end(response)

    async def fetch(
        self, call: Call, *, repeat: bool, pending: bool = False, patience: Patience | None = None
    ) -> httpx.Response:
        """Send a request; return the successful response with its content.

        Args:
            call: the request.
            repeat: whether a second execution of the request does no harm.
            pending: whether status 409, after a lost answer, means that the server still executes the first request.
            patience: for the repetitions; default: new patience.
        """
        patience = patience or self.patience()
        while True:
            response = await self._answer(call, patience, repeat=repeat, pending=pending)
            try:
                await self.transport.read(response)
                return response
            except httpx.TransportError as error:
                if not repeat:
                    raise self.failed(error) from error
                await patience.wait(self.failed(error))
            finally:
                await self.transport.end(response)

    async def json(self, call: Call, *, repeat: bool, pending: bool = False, patience: Patience | None = None) -> Any:
        """Send a request; return the JSON in the response."""
        response = await self.fetch(call, repeat=repeat, pending=pending, patience=patience)
        try:
            return response.json()
        except ValueError:
            kind = response.headers.get("content-type", "no content type")
            raise ConnectionFailed(f"{self.url} answers {call.path} with {kind}, so it is no SkipVSR server") from None

    def failed(self, error: httpx.TransportError) -> ConnectionFailed:
        """Create the error for a failed connection, with a remedy."""
        trouble = _NUMBER.sub("", str(error)) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            remedy = "start one with `skipvsr up`, or check the address"
            if "CERTIFICATE" in trouble.upper():
                remedy = "pass the certificate authority as `verify`"
            return ConnectionFailed(f"no server answers at {self.url} ({trouble}): {remedy}")
        if isinstance(error, httpx.UnsupportedProtocol):
            return ConnectionFailed(f"{self.url} is not the address of a server: use http://host:8000")
        return ConnectionFailed(f"the connection to {self.url} failed ({trouble}): try again")

    async def _answer(self, call: Call, patience: Patience, *, repeat: bool, pending: bool) -> httpx.Response:
        lost = False
        while True:
            try:
                response = await self.transport.send(call)
            except httpx.TransportError as error:
                sent = not isinstance(error, _CONNECTING)
                self.reached = self.reached or sent
                if sent and not repeat:
                    raise self.failed(error) from error
                lost = lost or sent
                await patience.wait(self.failed(error))
                continue
            self.reached = True
            if not response.is_error:
                return response
            refused = await self._refused(response)
            away = response.status_code in AWAY and refused.kind != _ANOTHER_WAY
            again = away or (pending and lost and response.status_code == 409)
            if not (repeat and again):
                raise refused
            await patience.wait(refused, refused.retry_after)

    async def _refused(self, response: httpx.Response) -> Refused:
        """Create the error for a response, and close the response."""
        try:
            await self.transport.read(response)
            document = response.json()
        except (httpx.TransportError, ValueError):
            document = None
        finally:
            await self.transport.end(response)
        return from_problem(response.status_code, document, response.headers)
