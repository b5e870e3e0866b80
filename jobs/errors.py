"""All errors with a message for the user.

    SkipVsrError                    .status  .title   (RFC 9457; the service maps each class to a gRPC code)
    ├── InvalidRequest        400   invalid options
    ├── Unauthorized          401   missing or wrong API key
    ├── Forbidden             403   the API key lacks a scope
    ├── NotFound              404   unknown job
    ├── UploadStalled         408   no data from an upload for too long
    ├── NotReady              409   the job's state does not allow the operation
    ├── OffsetMismatch        409   bytes for another offset of a resumable upload
    ├── Cancelled             409   the job was cancelled
    ├── Gone                  410   the file was removed when its retention time ended
    ├── TooLarge              413   over a size limit; the message names the limit and its setting
    ├── UnsupportedMedia      415   unsupported kind of file
    ├── UnusableVideo         422   a video that cannot be upscaled
    │   └── DecoderFailed     422   the process that reads the video died, hung or met a limit
    ├── HeaderNotSent         422   the header of a video lies outside the sent ends of the file
    ├── KeyReused             422   an idempotency key that belongs to another upload
    ├── UploadBusy            423   another request is using the resumable upload
    ├── LimitReached          429   a limit of the API key; the message names the limit
    ├── ChecksumMismatch      460   bytes that do not match their checksum (tus)
    ├── JobFailed             500   the processing of the job failed
    ├── FetchFailed           502   another host did not send the video
    ├── StoreUnavailable      503   Redis does not answer
    ├── StorageUnavailable    503   the bucket with the job files does not answer
    ├── KeysUnreadable        503   the list of API keys is damaged
    ├── TooManyUploads        503   too many uploads at the same time
    ├── TooManyEstimates      503   too many estimates at the same time
    ├── TooManyStreams        503   too many event streams at the same time
    ├── TooManyPreviews       503   too many previews at the same time
    └── StorageFull           507   the data folder has no room

A message is one line: first the problem, then a remedy. `/problems/<kind>` shows title, docstring and cure of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Self


class SkipVsrError(Exception):
    """Base class of all errors with a message for the user."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    cure: ClassVar[str] = "Read the server's log: the log has the details."
    """What a person can do."""
    permanent: ClassVar[bool] = False
    """Whether a job that failed with this error would fail again in the same way."""
    retry_after: int | None = None
    """Seconds until a repeated request may succeed; None if a repetition is pointless."""

    @classmethod
    def name(cls) -> str:
        """Stable name of the class in kebab case: the last part of the problem's `type`."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("-")

    @property
    def kind(self) -> str:
        """Name of the error's class."""
        return self.name()

    @classmethod
    def kinds(cls) -> dict[str, type[SkipVsrError]]:
        """All classes of errors by name."""
        found: dict[str, type[SkipVsrError]] = {}
        for kind in cls.__subclasses__():
            found |= {kind.name(): kind} | kind.kinds()
        return found

    @classmethod
    def again(cls, kind: str, message: str) -> SkipVsrError:
        """An error with the name of its class and its message; JobFailed for an unknown class."""
        error_class = SkipVsrError.kinds().get(kind, JobFailed)
        error = error_class.__new__(error_class)
        Exception.__init__(error, message)
        return error


class FieldError(NamedTuple):
    """The fault in a field of a request."""

    field: str
    detail: str


class InvalidRequest(SkipVsrError):
    """An option is unknown or out of range, or the request is malformed."""

    status, title = 400, "Invalid request"
    cure = "Correct the fields in `errors`. `/docs` lists all options and their limits."

    errors: tuple[FieldError, ...] = ()
    """The wrong fields, if known."""

    def __init__(self, message: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class Unauthorized(SkipVsrError):
    """The request carries no API key, or a wrong, expired or revoked one."""

    status, title = 401, "Not authorised"
    cure = (
        "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`. The server's administrator hands out keys "
        "with `skipvsr keys add`."
    )


class Forbidden(SkipVsrError):
    """The API key lacks a scope."""

    status, title = 403, "Forbidden"
    cure = "Ask the server's administrator for a key with the scope that `detail` names."


class NotFound(SkipVsrError):
    """Your API key has no job, upload or model with this id."""

    status, title = 404, "Not found"
    cure = "Check the id. `GET /jobs` lists the jobs of your key."

    @classmethod
    def job(cls, job_id: str) -> Self:
        """Create the error for an unknown job, and for a job that the caller may not know."""
        return cls(f"There is no job {job_id!r}.")


class UploadStalled(SkipVsrError):
    """The upload sent no data for too long, or was too slow."""

    status, title = 408, "Upload stalled"
    cure = (
        "Send the file again over a faster connection. `SKIPVSR_UPLOAD_IDLE_SECONDS` and "
        "`SKIPVSR_UPLOAD_MIN_RATE` set the limits."
    )


class NotReady(SkipVsrError):
    """The job's state does not allow the operation, for example a download before the job is done."""

    status, title = 409, "Not possible in this state"
    cure = "Read the job's `state` and `links`: the operations possible now have a link."


class OffsetMismatch(SkipVsrError):
    """The bytes belong to another offset of the resumable upload."""

    status, title = 409, "Offset mismatch"
    cure = "Ask for the offset (HEAD), and send the bytes from this offset on. tus clients do so automatically."

    def __init__(self, offset: int) -> None:
        super().__init__(f"{offset:,} bytes have arrived: send the following bytes, with Upload-Offset: {offset}")
        self.offset = offset


class Cancelled(SkipVsrError):
    """The job was cancelled and has no result."""

    status, title = 409, "Cancelled"
    cure = "Upload the video again to get a result."


class Gone(SkipVsrError):
    """The file existed, and was removed when its retention time ended or the job was cancelled."""

    status, title = 410, "No longer available"
    cure = (
        "Upload the video again. `SKIPVSR_RESULT_TTL_HOURS`, `SKIPVSR_INPUT_TTL_HOURS` and "
        "`SKIPVSR_FAILED_TTL_HOURS` set the times."
    )


class TooLarge(SkipVsrError):
    """The upload or the video is over a limit of this server."""

    status, title = 413, "Too large"
    cure = "Send a smaller video, or ask the server's administrator to raise the setting that `detail` names."


class UnsupportedMedia(SkipVsrError):
    """The file is no video of a supported kind."""

    status, title = 415, "Unsupported file"
    cure = "Convert the file, for example to MP4 with H.264. SkipVSR's `docs/formats.md` lists all supported formats."
    permanent = True


class UnusableVideo(SkipVsrError):
    """The video cannot be upscaled: it is damaged, has no frames, or has properties that no result can keep."""

    status, title = 422, "Unusable video"
    cure = "Repair or convert the file as `detail` says, then upload it again. Resuming the job does not help."
    permanent = True


class DecoderFailed(UnusableVideo):
    """The process that reads the video died, hung, or met its limit of memory or time."""

    title = "Decoder failed"
    cure = (
        "The file may be damaged: try to repair or convert it. A large video may need more memory or time: raise the "
        "setting that `detail` names, then resume the job."
    )
    permanent = False


class HeaderNotSent(SkipVsrError):
    """The header of a video lies outside the ends of the file that were sent."""

    status, title = 422, "Header not sent"
    cure = "Upload the whole file; the estimate then comes with the job. Or send more of the end of the file."


class KeyReused(SkipVsrError):
    """The idempotency key belongs to an earlier upload of another file or with other options."""

    status, title = 422, "Idempotency key reused"
    cure = "Send a new `Idempotency-Key` for a new upload."


class UploadBusy(SkipVsrError):
    """Another request is using the resumable upload."""

    status, title = 423, "Upload busy"
    cure = "Ask for the offset (HEAD), and continue there. HEAD also ends a request with a dead connection."
    retry_after = 1


class LimitReached(SkipVsrError):
    """A limit of the API key is reached."""

    status, title = 429, "Limit reached"
    cure = "Repeat the request after `Retry-After` seconds, or ask the server's administrator for a higher limit."

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ChecksumMismatch(SkipVsrError):
    """The bytes do not match the checksum of the request."""

    status, title = 460, "Checksum mismatch"
    cure = "Send the bytes again. If the error stays, the file changes during the upload, or a proxy changes the bytes."


class JobFailed(SkipVsrError):
    """The processing of the job failed."""

    status, title = 500, "Job failed"
    cure = "Remove the cause that `detail` names, then resume the job. `expires_at` says how long the files are kept."


class FetchFailed(SkipVsrError):
    """Another host did not send the video."""

    status, title = 502, "Fetch failed"
    cure = "Check the URL and the other host. Or download the video yourself, and upload the file."


class StoreUnavailable(SkipVsrError):
    """Redis, which holds the jobs, does not answer."""

    status, title = 503, "Store unavailable"
    cure = (
        "Repeat the request after `Retry-After` seconds. If the error stays, start Redis or correct "
        "`SKIPVSR_REDIS_URL`."
    )
    retry_after = 5


class StorageUnavailable(SkipVsrError):
    """The bucket that holds the job files does not answer."""

    status, title = 503, "Storage unavailable"
    cure = (
        "Repeat the request after `Retry-After` seconds. If the error stays, start the store, or correct "
        "`SKIPVSR_STORAGE`, `SKIPVSR_S3_ENDPOINT` and the credentials."
    )
    retry_after = 5


class KeysUnreadable(SkipVsrError):
    """The server's list of API keys is damaged: the server accepts only the administrator's key."""

    status, title = 503, "API keys unreadable"
    cure = "Ask the server's administrator to restore `keys.json` in the data folder."


class TooManyUploads(SkipVsrError):
    """As many uploads as the server allows are in progress."""

    status, title = 503, "Too many uploads"
    cure = "Repeat the request after `Retry-After` seconds. `SKIPVSR_MAX_UPLOADS` sets the number."
    retry_after = 10


class TooManyEstimates(SkipVsrError):
    """Too many estimates at the same time."""

    status, title = 503, "Too many estimates"
    cure = "Repeat the request after `Retry-After` seconds. Or submit the video: the job has an estimate, too."
    retry_after = 5


class TooManyStreams(SkipVsrError):
    """Too many event streams are open."""

    status, title = 503, "Too many event streams"
    cure = "Close other streams, or repeat the request after `Retry-After` seconds. `GET /events` follows all jobs."
    retry_after = 10


class TooManyPreviews(SkipVsrError):
    """Too many requests for previews are waiting."""

    status, title = 503, "Too many previews"
    cure = "Repeat the request after `Retry-After` seconds."
    retry_after = 2


class StorageFull(SkipVsrError):
    """The data folder has no room for the file."""

    status, title = 507, "Storage full"
    cure = (
        "Delete finished jobs, free disk space, or raise `SKIPVSR_QUOTA_GB`. Then repeat the request or resume the job."
    )
