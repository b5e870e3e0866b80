"""Response models of the REST API, beyond the job itself, and the descriptions of its errors."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from jobs.presence import WorkerInfo
from jobs.schema import InvalidProblem, Job, JobMetrics, JobState, Problem, Request
from service.http.problems import MEDIA_TYPE


class Links(BaseModel):
    """Addresses of a job's operations; null if the operation is not possible in the job's current state."""

    self: str
    input: str
    result: str | None = None
    cancel: str | None = None
    pause: str | None = None
    resume: str | None = None
    delete: str | None = Field(None, description="Address for the method DELETE, once the job is finished.")
    events: str
    preview: str | None = None
    report: str | None = None
    skipmap: str | None = None


class JobDocument(Job):
    """A job with links to its operations."""

    links: Links

    @classmethod
    def of(cls, job: Job) -> JobDocument:
        """Create the document of a job."""
        base, state = f"/jobs/{job.id}", job.state
        links = Links(
            self=base,
            input=f"{base}/input",
            result=f"{base}/result" if state is JobState.DONE and not _expired(job) else None,
            cancel=None if state.final or job.request is Request.CANCEL else f"{base}/cancel",
            pause=f"{base}/pause" if state in (JobState.QUEUED, JobState.RUNNING) and not job.request else None,
            resume=f"{base}/resume" if job.resumable else None,
            delete=base if state.final else None,
            events=f"{base}/events",
            preview=f"{base}/preview" if _has_files(job) else None,
            report=f"{base}/report" if _has_figures(job) else None,
            skipmap=f"{base}/skipmap" if _has_figures(job) else None,
        )
        return cls.model_construct(**dict(job), links=links)

    @property
    def modified(self) -> datetime | None:
        """Time of the document's last change; None while the document changes with other jobs, in the queue."""
        if self.state is JobState.QUEUED or self.updated_at is None:
            return None
        return max(self.updated_at, self.expires_at) if self.expires_at and _expired(self) else self.updated_at


def _has_figures(job: Job) -> bool:
    return job.started_at is not None and _has_files(job)


def _has_files(job: Job) -> bool:
    return not (job.state is JobState.CANCELLED or job.files_removed or _expired(job))


def _expired(job: Job) -> bool:
    return job.expires_at is not None and job.expires_at < datetime.now(UTC)


class JobList(BaseModel):
    """A page of the list of jobs, newest first."""

    jobs: list[JobDocument]
    total: int = Field(description="Number of jobs on all pages.")
    next: str | None = Field(description="Address of the next page; null on the last page.")
    counts: dict[JobState, int] = Field(
        description="Number of jobs in each state, without regard to the parameter `state`."
    )


class JobFigures(BaseModel):
    """Measurements of a job, without the rest of the job's document."""

    id: str
    state: JobState
    model: str
    routing: str
    width: int | None = Field(description="Width of the input in pixels.")
    height: int | None = Field(description="Height of the input in pixels.")
    frames: int = Field(description="Frames completed.")
    fps: float | None = Field(
        description="Frames per second of the whole job: decoding, network, encoding and final assembly."
    )
    finished_at: datetime | None
    attempt: int
    deaths: int
    metrics: JobMetrics

    @classmethod
    def of(cls, job: Job) -> JobFigures:
        """Create the figures of a job."""
        seconds, frames = job.metrics.processing_seconds, job.progress.frames_done
        return cls(
            id=job.id,
            state=job.state,
            model=job.model or job.options.model,
            routing=job.options.routing,
            width=job.input.width if job.input else None,
            height=job.input.height if job.input else None,
            frames=frames,
            fps=frames / seconds if seconds else None,
            finished_at=job.finished_at,
            attempt=job.attempt,
            deaths=job.deaths,
            metrics=job.metrics,
        )


class FiguresList(BaseModel):
    """Measurements of recent jobs, newest first."""

    jobs: list[JobFigures]


class ModelList(BaseModel):
    """Names of the available models."""

    models: list[str]


class WorkerList(BaseModel):
    """The live workers."""

    workers: list[WorkerInfo]


def shown(workers: Iterable[WorkerInfo], *, trusted: bool) -> list[WorkerInfo]:
    """The workers as an administrator sees them, or without host, process, machine and job."""
    hidden = {} if trusted else {"name": "", "host": "", "pid": 0, "machine": "", "job": None}
    return [worker.model_copy(update=hidden) for worker in workers]


class Health(BaseModel):
    """The process is alive."""

    status: str = Field("ok", description="Always ok.")
    version: str


class Component(BaseModel):
    """State of one part of the service."""

    name: str = Field(description="jail: system calls, or jail: files.")
    status: Literal["ok", "missing"] = Field(description="missing: the API's kernel does not enforce this layer.")


class Readiness(BaseModel):
    """Redis answers and at least one worker is alive."""

    status: str = "ready"
    workers: list[WorkerInfo]
    components: list[Component] = Field(description="Parts of the API's process and their state.")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI `responses` for these statuses and for all other errors, as problem documents."""
    keys: list[int | str] = [*statuses, "default"]
    return {
        key: {"description": _DESCRIPTIONS[key], "content": {MEDIA_TYPE: {"schema": _reference(key)}}} for key in keys
    }


def _reference(status: int | str) -> dict[str, str]:
    kind = InvalidProblem if status == 400 else Problem
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


_VERSION_HEADERS = {
    "ETag": _header("This version, for `If-None-Match` (304), `If-Match` (412) and `If-Range`."),
    "Last-Modified": _header("Time of the last change, for `If-Modified-Since` and `If-Unmodified-Since`."),
}
FILE_HEADERS = {
    **_VERSION_HEADERS,
    "Content-Disposition": _header("A name for the file."),
    "Accept-Ranges": _header("`bytes`"),
}
VERSIONED: dict[int | str, dict[str, Any]] = {
    200: {"headers": _VERSION_HEADERS},
    304: {"description": "The client's copy is current.", "headers": _VERSION_HEADERS},
}
"""OpenAPI `responses` of a document with versions."""
LISTED: dict[int | str, dict[str, Any]] = {
    **VERSIONED,
    200: {"headers": {"ETag": _VERSION_HEADERS["ETag"], "Link": _header('The next page: `<…>; rel="next"`.')}},
}
"""OpenAPI `responses` of a page of a list."""
_DESCRIPTIONS: dict[int | str, str] = {
    400: "The request is invalid; `detail` states the reason.",
    401: "The API key is missing or wrong.",
    403: "The API key lacks a scope; or the request comes from another web site, or uses an unknown host name.",
    404: "No job has this id.",
    408: "The upload stalled.",
    409: "The operation is not possible in the job's current state.",
    410: "The file has been removed because it expired.",
    412: "The version in `If-Match` or `If-Unmodified-Since` no longer exists, or the version of tus is not supported.",
    413: "A limit is exceeded; `detail` names the setting.",
    415: "The file type is not supported.",
    416: "The range is outside the file.",
    422: "The file is a video, but it cannot be upscaled; or the idempotency key belongs to another upload.",
    423: "Another request is using the upload. Retry after `Retry-After` seconds.",
    429: "A limit of the API key is reached; `detail` names the limit. Retry after `Retry-After` seconds.",
    460: "The bytes do not match their checksum. They were dropped.",
    500: "The job failed; `detail` states the reason.",
    502: "The host of the URL did not send the video.",
    503: "Redis or the bucket does not answer, or no worker is alive. Retry after `Retry-After` seconds. Or the list "
    "of API keys is damaged.",
    507: "The data folder is full.",
    "default": "Any other error.",
}
