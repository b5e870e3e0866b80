"""Bounds on received messages. grpc receives a unary call's message whole before any code of the service runs.

grpc knows one size limit for all methods, and frames need tens of megabytes. This interceptor therefore serves every
method as a stream, whose messages grpc receives only on request. A few calls receive at the same time, and only frames
and chunks of uploads may be large. The bytes on the wire are the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from service.rpc.auth import is_public
from service.rpc.errors import StatusError, abort, invalid
from skipvsr.v1 import upscaler_pb2 as pb

SMALL_MESSAGE_BYTES: Final = 64 * 1024
"""Maximum size of every message except frames and chunks of uploads."""
_SERVICES: Final = pb.DESCRIPTOR.services_by_name
_LARGE: Final = (
    f"/{_SERVICES['UpscalerService'].full_name}/Stream",
    f"/{_SERVICES['JobService'].full_name}/CreateJob",
    f"/{_SERVICES['JobService'].full_name}/EstimateJob",
)
"""Methods whose messages may be large after the first, the config. These methods limit their calls themselves."""
_HEALTH_WATCH: Final = "/grpc.health.v1.Health/Watch"
_MOST_HEALTH_WATCHERS: Final = 256


class Late(StatusError):
    """A message that did not arrive in time, while other calls waited."""

    def __init__(self) -> None:
        message = "the message did not arrive in time, and other calls are waiting; send the message at once"
        super().__init__(StatusCode.RESOURCE_EXHAUSTED, message, reason="MESSAGE_LATE", retry_after=1)


class Gate:
    """Lets a few calls receive a message at the same time. Calls that never send their message block nobody.

    Args:
        places: number of calls.
        patience: seconds for which a call waits for a place.
        seconds: time in which the message must arrive. None: a call that waited in vain takes the place of the call
            with the longest reception, and ends this other call.
    """

    def __init__(self, places: int, patience: float, seconds: float | None = None) -> None:
        self._free = asyncio.Semaphore(places)
        self._patience, self._seconds = patience, seconds
        self._receiving: dict[asyncio.Future[None], None] = {}
        """One future for each taken place, oldest first. Its result ends the call."""

    async def receive(self, read: Callable[[], Awaitable[Any]]) -> Any:
        """Return the small message that `read` receives. Raises StatusError without a place, or if it was lost."""
        async with self._place() as ended:
            reading = asyncio.ensure_future(_small(read))
            try:
                await asyncio.wait({reading, ended}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    return _checked(reading.result())
            finally:
                reading.cancel()
        raise Late()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[asyncio.Future[None]]:
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            if self._seconds is not None:
                raise Late() from None
            oldest = next(iter(self._receiving), None)
            if oldest is None:  # the places were given to calls that begin to receive in this moment
                await self._free.acquire()
            else:
                del self._receiving[oldest]
                oldest.set_result(None)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._receiving[mine] = None
        try:
            yield mine
        finally:
            if mine in self._receiving:
                del self._receiving[mine]
                self._free.release()


class MessageGate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Bounds how many calls receive a message at the same time, the sizes of the messages, and waits for readers.

    Args:
        read_seconds: time in which the client must read an answer of a call with several answers.
    """

    def __init__(self, read_seconds: float) -> None:
        self._read_seconds = read_seconds
        self._public = Gate(2, 0.2, seconds=2)
        """For health checks, which need no key. A check without a place gets the health of the whole server."""
        self._calls = Gate(2, 1.0)
        self._configs = Gate(4, 1.0)
        """For the first message of live streams and uploads."""
        self._health_watchers = 0

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return a handler that receives the messages of a call through a gate."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        behavior = _behavior(handler)
        gate = self._configs if method in _LARGE else self._public if is_public(method) else self._calls

        async def serve(_: Any, context: Any) -> None:
            default = b"" if is_public(method) else None
            parse = handler.request_deserializer
            messages = _Messages(context, gate, parse, large=method in _LARGE, default=default)
            try:
                await _serve(handler, behavior, messages, context, self._read_seconds)
            except StatusError as error:
                await abort(context, error)

        async def watch_health(_: Any, context: Any) -> None:
            if self._health_watchers >= _MOST_HEALTH_WATCHERS:
                message = f"{_MOST_HEALTH_WATCHERS} clients watch the server's health; use Check"
                await abort(context, StatusError(StatusCode.RESOURCE_EXHAUSTED, message, reason="TOO_MANY_WATCHERS"))
            self._health_watchers += 1
            try:
                await serve(_, context)
            finally:
                self._health_watchers -= 1

        return grpc.stream_stream_rpc_method_handler(
            watch_health if method == _HEALTH_WATCH else serve, None, handler.response_serializer
        )


class _Messages:
    """The messages of a call: an asynchronous iterator that reads and parses them on request."""

    def __init__(
        self, context: Any, gate: Gate, parse: Callable[[bytes], Any], *, large: bool, default: bytes | None
    ) -> None:
        self._context, self._gate, self._parse, self._large = context, gate, parse, large
        self._default = default
        self._first = True

    def __aiter__(self) -> _Messages:
        return self

    async def single(self) -> Any:
        """Return the message of a unary call; None if the call has none."""
        try:
            return await anext(self, None)
        except Late:
            if self._default is None:
                raise
            return self._parse(self._default)

    async def __anext__(self) -> Any:
        small = self._first or not self._large
        self._first = False
        data = await (self._gate.receive(self._context.read) if small else self._context.read())
        if data is grpc.aio.EOF:
            raise StopAsyncIteration
        try:
            return self._parse(data)
        except DecodeError as error:
            raise invalid("message", "the message is not of the method's type") from error


async def _small(read: Callable[[], Awaitable[Any]]) -> Any:
    """Return the message, or the size of a message that is too large. Nothing keeps such a message in memory."""
    data = await read()
    return data if data is grpc.aio.EOF or len(data) <= SMALL_MESSAGE_BYTES else len(data)


def _checked(data: Any) -> Any:
    """Return a message. Raises StatusError if it was too large: the error must not refer to the message."""
    if isinstance(data, int) and data is not grpc.aio.EOF:
        raise StatusError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"the message has {data:,} bytes; the limit is {SMALL_MESSAGE_BYTES:,}",
            reason="MESSAGE_TOO_LARGE",
        )
    return data


def _behavior(handler: Any) -> Callable[[Any, Any], Any]:
    kinds = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
    found: Callable[[Any, Any], Any] = next(kind for kind in kinds if kind is not None)
    return found


async def _serve(
    handler: Any, behavior: Callable[[Any, Any], Any], messages: _Messages, context: Any, read_seconds: float
) -> None:
    request = messages if handler.request_streaming else await messages.single()
    if request is None:
        raise invalid("message", "the call ended before its message arrived")
    answer = behavior(request, context)
    if hasattr(answer, "__aiter__"):
        async with aclosing(answer):
            async for response in answer:
                await _write(context, response, read_seconds)
        return
    response = await answer
    if not handler.response_streaming:
        await context.write(response)


async def _write(context: Any, response: Any, seconds: float) -> None:
    """Write one of several answers. Raises StatusError if the client reads nothing for too long."""
    try:
        async with asyncio.timeout(seconds):
            await context.write(response)
    except TimeoutError:
        message = f"the client read no answer for {seconds:g} s (SKIPVSR_DOWNLOAD_IDLE_SECONDS)"
        raise StatusError(StatusCode.DEADLINE_EXCEEDED, message, reason="CLIENT_IDLE") from None
