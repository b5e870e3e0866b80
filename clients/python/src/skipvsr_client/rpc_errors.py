"""Errors of calls over gRPC as the client's exceptions."""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from skipvsr_client.errors import ConnectionFailed, FieldError, SkipVsrError, refused_class

_STATUSES: Final = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.FAILED_PRECONDITION: 409,
    StatusCode.ABORTED: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}


def from_rpc(error: grpc.RpcError, target: str) -> SkipVsrError:
    """Create the exception for a failed call to the server at `target`."""
    code, details = error.code(), str(error.details() or "")
    reason, fields, retry_after = _rich(error)
    if code is StatusCode.UNAVAILABLE and not reason:
        trouble = details.rpartition(": ")[2]  # behind gRPC's addresses and states: "Connection refused"
        return ConnectionFailed(
            f"no gRPC server answers at {target} ({trouble}): start one with `skipvsr up`, or check the address"
        )
    status = _STATUSES.get(code, 500)
    return refused_class(status)(
        details or code.name,
        status=status,
        kind=reason.lower().replace("_", "-") or None,
        title=code.name,
        errors=fields,
        retry_after=retry_after,
        request_id=dict(error.trailing_metadata() or ()).get("x-request-id"),
    )


def _rich(error: Any) -> tuple[str, list[FieldError], float | None]:
    """The reason, the invalid fields, and the seconds until a retry, from google.rpc.Status."""
    reason, fields, retry_after = "", [], None
    try:
        status = rpc_status.from_call(error)
        for packed in status.details if status is not None else ():
            info, invalid, retry = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.BadRequest(),
                error_details_pb2.RetryInfo(),
            )
            if packed.Unpack(info):
                reason = info.reason
            elif packed.Unpack(invalid):
                fields += [FieldError(each.field, each.description) for each in invalid.field_violations]
            elif packed.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    except (ValueError, DecodeError):  # the status is not the server's
        pass
    return reason, fields, retry_after
