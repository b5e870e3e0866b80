"""All errors with a message for the user.

    SkipVsrError                    .status  .title   (RFC 9457; the service maps each class to a gRPC code)
    ├── InvalidRequest        400   invalid options
    ├── Unauthorized          401   missing or wrong API key
    ├── Forbidden             403   the API key lacks a scope
    ├── NotFound              404   unknown job
    ├── UploadStalled         408   no data from an upload for too long
    ├── NotReady              409   the job's state does not allow the operation
    ├── Cancelled             409   the job was cancelled
    ├── Gone                  410   the file was removed when its retention time ended
    ├── TooLarge              413   over a size limit; the message names the limit and its setting
    ├── UnsupportedMedia      415   unsupported kind of file
    ├── UnusableVideo         422   a video that cannot be upscaled
    ├── HeaderNotSent         422   the header of a video lies outside the sent ends of the file
    ├── KeyReused             422   an idempotency key that belongs to another upload
    ├── LimitReached          429   a limit of the API key; the message names the limit
    ├── JobFailed             500   the processing of the job failed
    ├── StoreUnavailable      503   Redis does not answer
    ├── KeysUnreadable        503   the list of API keys is damaged
    ├── TooManyUploads        503   too many uploads at the same time
    └── StorageFull           507   the data folder has no room

A message is one line: first the problem, then a remedy.
"""

from __future__ import annotations

from typing import ClassVar, Self


class SkipVsrError(Exception):
    """Base class of all errors with a message for the user."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retry_after: int | None = None
    """Seconds until a repeated request may succeed; None if a repetition is pointless."""

    @property
    def kind(self) -> str:
        """Stable name of the error class in kebab case: the last part of the problem's `type`."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in type(self).__name__).lstrip("-")


class InvalidRequest(SkipVsrError):
    """Invalid options."""

    status, title = 400, "Invalid request"


class Unauthorized(SkipVsrError):
    """Missing or wrong API key."""

    status, title = 401, "Not authorised"


class Forbidden(SkipVsrError):
    """The API key lacks a scope."""

    status, title = 403, "Forbidden"


class NotFound(SkipVsrError):
    """Unknown job."""

    status, title = 404, "Not found"

    @classmethod
    def job(cls, job_id: str) -> Self:
        """Create the error for an unknown job, and for a job that the caller may not know."""
        return cls(f"There is no job {job_id!r}.")


class UploadStalled(SkipVsrError):
    """No data from an upload for too long."""

    status, title = 408, "Upload stalled"


class NotReady(SkipVsrError):
    """The job's state does not allow the operation."""

    status, title = 409, "Not possible in this state"


class Cancelled(SkipVsrError):
    """The job was cancelled."""

    status, title = 409, "Cancelled"


class Gone(SkipVsrError):
    """The file was removed when its retention time ended."""

    status, title = 410, "No longer available"


class TooLarge(SkipVsrError):
    """Over a size limit."""

    status, title = 413, "Too large"


class UnsupportedMedia(SkipVsrError):
    """Unsupported kind of file."""

    status, title = 415, "Unsupported file"


class UnusableVideo(SkipVsrError):
    """A video that cannot be upscaled."""

    status, title = 422, "Unusable video"


class HeaderNotSent(SkipVsrError):
    """The header of a video lies outside the ends of the file that were sent."""

    status, title = 422, "Header not sent"


class KeyReused(SkipVsrError):
    """An idempotency key that belongs to another upload."""

    status, title = 422, "Idempotency key reused"


class LimitReached(SkipVsrError):
    """A limit of the API key is reached."""

    status, title = 429, "Limit reached"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class JobFailed(SkipVsrError):
    """The processing of the job failed."""

    status, title = 500, "Job failed"


class StoreUnavailable(SkipVsrError):
    """Redis does not answer."""

    status, title = 503, "Store unavailable"
    retry_after = 5


class KeysUnreadable(SkipVsrError):
    """The list of API keys is damaged."""

    status, title = 503, "API keys unreadable"


class TooManyUploads(SkipVsrError):
    """Too many uploads at the same time."""

    status, title = 503, "Too many uploads"
    retry_after = 10


class StorageFull(SkipVsrError):
    """The data folder has no room."""

    status, title = 507, "Storage full"
