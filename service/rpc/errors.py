"""Mapping of errors to gRPC statuses with rich details. REST's counterpart is `service.http.problems`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import AbortError

from jobs.errors import InvalidRequest, JobFailed, SkipVsrError
from media.errors import MediaError
from model.errors import BadWeights, DeviceError, MissingWeights, ModelError, StateMismatch, UnknownModel
from model.faults import device_failure
from service import request_id as ids
from service.rpc import call

log = logging.getLogger(__name__)
DOMAIN = "skipvsr"
_DETAILS_KEY = "grpc-status-details-bin"


class StatusError(Exception):
    """An error with a gRPC status code, a one-line message, and machine-readable details."""

    def __init__(
        self,
        code: StatusCode,
        message: str,
        *,
        reason: str,
        field: str = "",
        errors: Sequence[tuple[str, str]] = (),
        retry_after: float | None = None,
    ) -> None:
        """Create an error.

        Args:
            code: gRPC status code.
            message: one line for the user.
            reason: stable name in capitals, for ErrorInfo.
            field: path of the invalid field, e.g. `config.width`, for BadRequest.
            errors: path and problem of each invalid field, if there are several.
            retry_after: seconds until a retry may succeed, for RetryInfo.
        """
        super().__init__(message)
        self.code, self.reason = code, reason
        self.errors = ((field, message),) if field else tuple(errors)
        self.retry_after = retry_after


def invalid(field: str, message: str) -> StatusError:
    """Create the error for an invalid field of a request."""
    return StatusError(StatusCode.INVALID_ARGUMENT, f"{field}: {message}", reason="INVALID_REQUEST", field=field)


def stopping() -> StatusError:
    """Create the error for a server that is shutting down."""
    return StatusError(
        StatusCode.UNAVAILABLE, "the server is stopping; connect again", reason="SERVER_STOPPING", retry_after=2
    )


_JOB_CODES: Final = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    408: StatusCode.DEADLINE_EXCEEDED,
    409: StatusCode.FAILED_PRECONDITION,
    410: StatusCode.NOT_FOUND,
    412: StatusCode.FAILED_PRECONDITION,
    413: StatusCode.INVALID_ARGUMENT,  # not RESOURCE_EXHAUSTED, which clients retry
    415: StatusCode.INVALID_ARGUMENT,
    422: StatusCode.INVALID_ARGUMENT,
    423: StatusCode.ABORTED,
    460: StatusCode.ABORTED,
    429: StatusCode.RESOURCE_EXHAUSTED,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    507: StatusCode.RESOURCE_EXHAUSTED,
}
"""gRPC code for the HTTP status of a SkipVsrError."""
_MODEL_CODES: dict[type[ModelError], StatusCode] = {
    UnknownModel: StatusCode.INVALID_ARGUMENT,
    MissingWeights: StatusCode.FAILED_PRECONDITION,
    BadWeights: StatusCode.FAILED_PRECONDITION,
    StateMismatch: StatusCode.FAILED_PRECONDITION,
    DeviceError: StatusCode.RESOURCE_EXHAUSTED,
}


def to_status_error(error: BaseException) -> StatusError:
    """Convert any error. Unexpected errors become INTERNAL, without their text."""
    match error:
        case StatusError():
            return error
        case JobFailed():  # the call succeeded, but the job has no result
            return StatusError(StatusCode.FAILED_PRECONDITION, str(error), reason=_reason(error.kind))
        case SkipVsrError():
            code = _JOB_CODES.get(error.status, StatusCode.INTERNAL)
            errors = error.errors if isinstance(error, InvalidRequest) else ()
            reason = _reason(error.kind)
            return StatusError(code, str(error), reason=reason, errors=errors, retry_after=error.retry_after)
        case ModelError():
            code = _MODEL_CODES.get(type(error), StatusCode.INTERNAL)
            retry_after = 5 if isinstance(error, DeviceError) else None
            return StatusError(code, str(error), reason=_reason(_kebab(error)), retry_after=retry_after)
        case MediaError():
            return StatusError(StatusCode.INVALID_ARGUMENT, str(error), reason=_reason(_kebab(error)))
        case _ if device_failure(error):
            message = "the server's compute device failed, and the server starts anew; start a new stream"
            return StatusError(StatusCode.UNAVAILABLE, message, reason="DEVICE_FAILED", retry_after=10)
        case _:
            return StatusError(
                StatusCode.INTERNAL, "internal error; the server's log has the details", reason="INTERNAL"
            )


def status_metadata(error: StatusError) -> tuple[tuple[str, bytes], ...]:
    """Encode google.rpc.Status as trailing metadata: ErrorInfo, and BadRequest and RetryInfo if applicable."""
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if error.errors:
        violation = error_details_pb2.BadRequest.FieldViolation
        violations = [violation(field=field, description=description) for field, description in error.errors]
        details.append(error_details_pb2.BadRequest(field_violations=violations))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(1000 * error.retry_after))
        details.append(retry)
    for detail in details:
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return ((_DETAILS_KEY, status.SerializeToString()),)


async def abort(context: Any, error: StatusError, *more: tuple[str, str]) -> NoReturn:
    """End a call with an error's status and `more` trailing metadata. Always raises grpc's AbortError."""
    # grpc keeps the exception until a garbage collection; its traceback would keep the call's messages.
    error.__traceback__ = None
    await context.abort(error.code, str(error), (*status_metadata(error), *more))
    raise AssertionError("context.abort always raises")


@asynccontextmanager
async def reported(context: Any, method: str) -> AsyncIterator[dict[str, object]]:
    """End the call with the matching status if the block raises. Unexpected errors are logged with their traceback.

    Yields the `extra` fields for log lines of the call: its request id and its method. The request id is returned to
    the caller in the trailing metadata.
    """
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    request_id = ids.request_id(metadata.get(ids.HEADER, ""))
    extra: dict[str, object] = {"request_id": request_id, "method": method}
    context.set_trailing_metadata(((ids.HEADER, request_id),))
    call.entry().request_id = request_id
    try:
        yield extra
    except Exception as error:
        if isinstance(error, AbortError):
            raise
        known = to_status_error(error)
        if known.code is StatusCode.INTERNAL:
            log.exception("%s failed (request %s)", method, request_id, extra=extra)
            known = StatusError(known.code, f"{known} (request {request_id})", reason=known.reason)
        else:
            log.info("%s %s: %s", method, known.code.name, known, extra=extra)
        error.__traceback__ = None
        await abort(context, known, (ids.HEADER, request_id))


def _reason(kind: str) -> str:
    return kind.replace("-", "_").upper()


def _kebab(error: Exception) -> str:
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in type(error).__name__).lstrip("-")
