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


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Ends calls without the correct key with UNAUTHENTICATED, before any message is read."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the handler for a call: the service's own, or a refusal."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_PUBLIC):
            return handler
        given = _keys(handler_call_details.invocation_metadata)
        if api_key.matches(self._key, given):
            return handler
        return _refusal(handler, "the API key is wrong" if given else "this server needs its API key in the metadata")


def _keys(metadata: Any) -> list[bytes]:
    found = []
    for name, value in metadata:
        text = value if isinstance(value, bytes) else value.encode()
        if name == "x-api-key":
            found.append(text)
        elif name == "authorization" and text[:7].lower() == b"bearer ":
            found.append(text[7:].strip())
    return found


def _refusal(handler: Any, message: str) -> Any:
    async def refuse(request: Any, context: Any) -> None:
        hint = f"{message}: send authorization: Bearer <key>, or x-api-key: <key>"
        await abort(context, StatusError(StatusCode.UNAUTHENTICATED, hint, reason="UNAUTHORIZED"))

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(refuse, handler.request_deserializer, handler.response_serializer)
