"""What the API answers with, beyond the job itself: documents with links, lists, and how they are described."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from jobs.presence import WorkerInfo
from jobs.schema import Job, JobMetrics, JobState, Problem
from service.http.problems import MEDIA_TYPE


class Links(BaseModel):
    """Where to go from a job; what is null is not possible in its present state."""

    self: str
    input: str
    result: str | None = None
    cancel: str | None = None
    pause: str | None = None
    resume: str | None = None


class JobDocument(Job):
    """A job, and what can be done with it."""

    links: Links

    @classmethod
    def of(cls, job: Job) -> JobDocument:
        """The document of a job."""
        here, state = f"/jobs/{job.id}", job.state
        links = Links(
            self=here,
            input=f"{here}/input",
            result=f"{here}/result" if state is JobState.DONE else None,
            cancel=None if state.final else f"{here}/cancel",
            pause=f"{here}/pause" if state in (JobState.QUEUED, JobState.RUNNING) else None,
            resume=f"{here}/resume" if _resumable(job) else None,
        )
        return cls.model_construct(**dict(job), links=links)


def _resumable(job: Job) -> bool:
    return job.state is JobState.PAUSED or (job.state is JobState.FAILED and not job.files_removed)


class JobList(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobDocument]


class JobFigures(BaseModel):
    """What was measured of one job, without the rest of its document."""

    id: str
    state: JobState
    model: str
    routing: str
    width: int | None = Field(description="Of the input, in pixels.")
    height: int | None
    frames: int = Field(description="Frames done.")
    fps: float | None = Field(description="Frames a second of the whole job: decoding, network, encoding, assembling.")
    finished_at: datetime | None
    attempt: int
    deaths: int
    metrics: JobMetrics

    @classmethod
    def of(cls, job: Job) -> JobFigures:
        """The figures of a job."""
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
    """The last jobs' figures, newest first."""

    jobs: list[JobFigures]


class ModelList(BaseModel):
    """Models that there are."""

    models: list[str]


class Health(BaseModel):
    """The process answers."""

    status: str = Field("ok", description="Always ok: a process that is not does not answer.")
    version: str


class Readiness(BaseModel):
    """Redis answers and somebody does the work."""

    status: str = "ready"
    workers: list[WorkerInfo]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for these errors, and for any other, as problem documents."""
    keys: list[int | str] = [*statuses, "default"]
    return {key: {"description": _DESCRIPTIONS[key], "content": {MEDIA_TYPE: {"schema": PROBLEM_REF}}} for key in keys}


PROBLEM_REF = {"$ref": f"#/components/schemas/{Problem.__name__}"}
_DESCRIPTIONS: dict[int | str, str] = {
    400: "The request makes no sense; `detail` says why.",
    401: "An API key is needed, and the one given is missing or wrong.",
    403: "The request comes from another web site.",
    404: "There is no such job.",
    408: "The upload stalled.",
    409: "Not possible in the job's present state.",
    410: "The file has been removed, for its time was over.",
    413: "Over a limit; `detail` names the setting.",
    415: "Not a kind of file that is taken.",
    416: "The range lies outside the file.",
    422: "A video, but one that can't be upscaled.",
    500: "The job failed; `detail` says why.",
    503: "Redis does not answer, or no worker is alive. Try again after `Retry-After` seconds.",
    507: "The data folder has no room.",
    "default": "Any other error.",
}
