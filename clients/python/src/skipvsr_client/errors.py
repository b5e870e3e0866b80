"""Errors of the client. Every message is one line: first the problem, then a remedy.

SkipVsrError
├── ConnectionFailed     no answer from the server; names the server and a remedy
├── Refused              the server refused the request: .status, .kind, .title, .detail, .errors, .retry_after
│   ├── InvalidRequest       400, 413, 415, 422   options or file
│   ├── Unauthorized         401                  missing or wrong API key
│   ├── Forbidden            403                  the key lacks a scope
│   ├── NotFound             404, 410             unknown job, or a removed file
│   ├── NotPossible          409, 412             not possible in the job's state
│   ├── LimitReached         429                  a limit of the key; .retry_after
│   └── Unavailable          500 to 599           the server cannot answer now
└── JobFailed            the job ended without a result; .job
    └── JobCancelled         a user cancelled the job
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from skipvsr_client.documents import Job


class SkipVsrError(Exception):
    """Base class of all errors of the client."""


class ConnectionFailed(SkipVsrError):
    """No answer from the server.

    `upload` is the id of an unfinished upload: pass the id to `submit` or `upscale` to continue.
    """

    upload: str | None = None


@dataclass(frozen=True)
class FieldError:
    """An invalid field of a request."""

    field: str
    detail: str


class Refused(SkipVsrError):
    """The server refused the request. The message is `detail`."""

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        kind: str | None = None,
        title: str = "",
        errors: Sequence[FieldError] = (),
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        """HTTP status, also for calls over gRPC."""
        self.kind = kind
        """Stable name of the error, e.g. `unsupported-media`; None if the server gives no name."""
        self.title = title
        self.errors = tuple(errors)
        """Invalid fields."""
        self.retry_after = retry_after
        """Seconds until a repetition may succeed."""
        self.request_id = request_id
        """Id of the request in the server's log."""


class InvalidRequest(Refused):
    """Invalid options, or a file that the server does not accept."""


class Unauthorized(Refused):
    """Missing or wrong API key."""


class Forbidden(Refused):
    """The API key lacks a scope."""


class NotFound(Refused):
    """Unknown job, or a file that has been removed."""


class NotPossible(Refused):
    """Not possible in the job's current state."""


class LimitReached(Refused):
    """A limit of the API key is reached."""


class Unavailable(Refused):
    """The server cannot answer now."""


class JobFailed(SkipVsrError):
    """The job ended without a result."""

    def __init__(self, job: Job) -> None:
        reason = job.error.detail if job.error is not None else "no reason given"
        super().__init__(f"job {job.id} {job.state}: {reason}")
        self.job = job


class JobCancelled(JobFailed):
    """A user cancelled the job."""


_CLASSES: Final[dict[int, type[Refused]]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: NotPossible,
    410: NotFound,
    412: NotPossible,
    429: LimitReached,
}


def refused_class(status: int) -> type[Refused]:
    """Return the class of errors for an HTTP status."""
    if status >= 500:
        return Unavailable
    return _CLASSES.get(status, InvalidRequest)


def from_problem(status: int, document: object, headers: Mapping[str, str]) -> Refused:
    """Create the error for a problem document (RFC 9457), or for an answer without one (`document` is None)."""
    problem: Mapping[str, Any] = document if isinstance(document, dict) else {}
    detail = problem.get("detail") or f"the server answered with status {status}"
    return refused_class(status)(
        str(detail),
        status=status,
        kind=_kind(problem.get("type")),
        title=str(problem.get("title") or ""),
        errors=[FieldError(str(error.get("field", "")), str(error.get("detail", ""))) for error in _errors(problem)],
        retry_after=_seconds(headers.get("retry-after")),
        request_id=headers.get("x-request-id"),
    )


def _kind(uri: object) -> str | None:
    _, found, kind = str(uri).rpartition("/problems/")
    return kind if found else None


def _errors(problem: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = problem.get("errors")
    return [error for error in found if isinstance(error, dict)] if isinstance(found, list) else []


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None
