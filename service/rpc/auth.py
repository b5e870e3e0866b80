"""API key check. Metadata: `authorization: Bearer <key>` or `x-api-key: <key>`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import StatusCode

from service import api_key
from service.rpc.errors import StatusError, abort

_PUBLIC = ("/grpc.health.v1.Health/",)
"""Orchestrators check health without a key. The answer reveals only whether the server is up."""


def is_public(method: str) -> bool:
    """Whether a method, e.g. `/grpc.health.v1.Health/Check`, needs no key."""
    return method.startswith(_PUBLIC)


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Ends calls without the correct key with UNAUTHENTICATED, before any message is read."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the handler for a call: the service's own, or a refusal."""
        handler = await continuation(handler_call_details)
        if handler is None or is_public(handler_call_details.method):
            return handler
        given = _keys(handler_call_details.invocation_metadata)
        if api_key.matches(self._key, given):
            return handler
        return _refusal("the API key is wrong" if given else "this server needs its API key in the metadata")


def _keys(metadata: Any) -> list[bytes]:
    found = []
    for name, value in metadata:
        text = value if isinstance(value, bytes) else value.encode()
        if name == "x-api-key":
            found.append(text)
        elif name == "authorization" and text[:7].lower() == b"bearer ":
            found.append(text[7:].strip())
    return found


def _refusal(message: str) -> Any:
    """Return a handler that refuses a call of any kind.

    grpc receives a unary call's message before the handler runs, but a stream's messages only on request. This handler
    is a stream's, and requests none: callers without the key cost no memory.
    """

    async def refuse(_: Any, context: Any) -> None:
        hint = f"{message}: send authorization: Bearer <key>, or x-api-key: <key>"
        await abort(context, StatusError(StatusCode.UNAUTHENTICATED, hint, reason="UNAUTHORIZED"))

    return grpc.stream_stream_rpc_method_handler(refuse)
