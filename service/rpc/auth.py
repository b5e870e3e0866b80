"""Access control: API keys and scopes. Metadata: `authorization: Bearer <key>` or `x-api-key: <key>`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from grpc import StatusCode
from grpc.aio import AbortError

from jobs.errors import SkipVsrError, Unauthorized
from service.api_key import ApiKeys, given_keys
from service.audit import Entry
from service.callers import Caller, Scope
from service.rpc import call
from service.rpc.errors import StatusError, abort, to_status_error
from skipvsr.v1 import upscaler_pb2 as pb

_PUBLIC = ("/grpc.health.v1.Health/",)
"""Orchestrators check health without a key. The answer reveals only whether the server is up."""
_ANY_KEY: Final = ("/grpc.reflection.v1alpha.ServerReflection/", "/grpc.reflection.v1.ServerReflection/")
_RPCS: Final[dict[str, Scope | None]] = {
    "UpscalerService/Stream": Scope.SUBMIT,
    "UpscalerService/ListModels": None,
    "JobService/CreateJob": Scope.SUBMIT,
    "JobService/EstimateJob": Scope.SUBMIT,
    "JobService/GetJob": Scope.READ,
    "JobService/ListJobs": Scope.READ,
    "JobService/WatchJob": Scope.READ,
    "JobService/CancelJob": Scope.SUBMIT,
    "JobService/PauseJob": Scope.SUBMIT,
    "JobService/ResumeJob": Scope.SUBMIT,
    "JobService/DeleteJob": Scope.SUBMIT,
    "JobService/DownloadResult": Scope.READ,
    "JobService/DownloadInput": Scope.READ,
}
"""Scope of each RPC; None: any key. The audit log names calls that need the scope `submit`."""
SCOPES: Final = {f"/{pb.DESCRIPTOR.package}.{name}": scope for name, scope in _RPCS.items()}


def is_public(method: str) -> bool:
    """Whether a method, e.g. `/grpc.health.v1.Health/Check`, needs no key."""
    return method.startswith(_PUBLIC)


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Ends calls without a key of the right scope, before any message is read. Writes the audit log."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the handler for a call: the service's own for the caller, or a refusal."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or is_public(method):
            return handler
        scope = None if method.startswith(_ANY_KEY) else SCOPES.get(method, Scope.ADMIN)
        entry = Entry("gRPC", method.rpartition("/")[2], "")
        serve = handler.stream_stream  # `service.rpc.gate` serves every method as a stream
        try:
            entry.caller = self._caller(handler_call_details.invocation_metadata)
            if scope is not None:
                entry.caller.require(scope)
        except SkipVsrError as error:
            serve = _refusal(to_status_error(error))
        audited = scope is Scope.SUBMIT
        return grpc.stream_stream_rpc_method_handler(
            _recorded(serve, entry, audited=audited), handler.request_deserializer, handler.response_serializer
        )

    def _caller(self, metadata: Any) -> Caller:
        """The caller with the key in the metadata. Raises Unauthorized, KeysUnreadable."""
        given = given_keys((name, value if isinstance(value, bytes) else value.encode()) for name, value in metadata)
        try:
            return self._keys.caller(given)
        except Unauthorized as error:
            problem = str(error) if given else "this server needs its API key in the metadata"
            raise Unauthorized(f"{problem}: send authorization: Bearer <key>, or x-api-key: <key>") from error


def _refusal(error: StatusError) -> Any:
    """Return a handler that refuses a call of any kind.

    grpc receives a unary call's message before the handler runs, but a stream's messages only on request. This handler
    is a stream's, and requests none: callers without the key cost no memory.
    """

    async def refuse(_: Any, context: Any) -> None:
        await abort(context, error)

    return refuse


def _recorded(serve: Any, entry: Entry, *, audited: bool) -> Any:
    """Return a handler that serves a call with its entry, and then writes an audited entry."""

    async def recorded(requests: Any, context: Any) -> None:
        call.begin(entry)
        entry.remote = context.peer()
        status = "UNKNOWN"
        try:
            await serve(requests, context)
            status = StatusCode.OK.name
        except AbortError:
            status = getattr(context.code(), "name", status)
            raise
        except asyncio.CancelledError:
            status = StatusCode.CANCELLED.name
            raise
        finally:
            if audited:
                entry.write(status)

    return recorded
