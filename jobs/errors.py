"""Everything that can go wrong and that somebody has to be told about.

    SkipVsrError                    .status  .title   (RFC 9457's; gRPC's code follows from it, see service)
    ├── InvalidRequest        400   the options make no sense
    ├── Unauthorized          401   an API key is needed, and the one given is missing or wrong
    ├── NotFound              404   no such job
    ├── UploadStalled         408   an upload from which nothing came for too long
    ├── NotReady              409   the job exists, but not in a state that allows this
    ├── Gone                  410   there was a result; its time is over
    ├── TooLarge              413   over a limit on size; the limit and its setting are named
    ├── UnsupportedMedia      415   not a kind of file that is taken
    ├── UnusableVideo         422   a video, but one that can't be upscaled
    ├── Cancelled             409   stopped because somebody asked
    ├── JobFailed             500   the work itself failed
    ├── StoreUnavailable      503   Redis does not answer
    └── StorageFull           507   the data folder has no room

A message is one line for a person: what was wrong, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class SkipVsrError(Exception):
    """Base of all errors that carry a message for the user."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retry_after: int | None = None
    """Seconds after which trying again makes sense, where it does."""

    @property
    def kind(self) -> str:
        """Stable name of this kind of error, kebab-case: the last part of the problem's `type`."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in type(self).__name__).lstrip("-")


class InvalidRequest(SkipVsrError):
    """The options make no sense."""

    status, title = 400, "Invalid request"


class Unauthorized(SkipVsrError):
    """An API key is needed."""

    status, title = 401, "Not authorised"


class NotFound(SkipVsrError):
    """No such job."""

    status, title = 404, "Not found"


class UploadStalled(SkipVsrError):
    """An upload from which nothing came for too long."""

    status, title = 408, "Upload stalled"


class NotReady(SkipVsrError):
    """The job is not in a state that allows this."""

    status, title = 409, "Not possible in this state"


class Gone(SkipVsrError):
    """There was a result; its time is over."""

    status, title = 410, "No longer there"


class TooLarge(SkipVsrError):
    """Over a limit on size."""

    status, title = 413, "Too large"


class UnsupportedMedia(SkipVsrError):
    """Not a kind of file that is taken."""

    status, title = 415, "Unsupported file"


class UnusableVideo(SkipVsrError):
    """A video, but one that can't be upscaled."""

    status, title = 422, "Unusable video"


class Cancelled(SkipVsrError):
    """Stopped because somebody asked."""

    status, title = 409, "Cancelled"


class JobFailed(SkipVsrError):
    """The work itself failed."""

    status, title = 500, "Job failed"


class StoreUnavailable(SkipVsrError):
    """Redis does not answer."""

    status, title = 503, "Store unavailable"
    retry_after = 5


class StorageFull(SkipVsrError):
    """The data folder has no room."""

    status, title = 507, "Storage full"
