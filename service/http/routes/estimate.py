"""The route of estimates: time and size of a video's result, before the upload."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from jobs.schema import JobRequest, StreamFacts
from jobs.speed import Basis
from service.admission import Pace, options_from_text
from service.callers import Scope
from service.estimates import Answer
from service.estimating import HEAD_BYTES, TAIL_BYTES
from service.http.auth import JobsDep, known_name, needs, require_key, same_site
from service.http.dependencies import EstimatingDep, SettingsDep
from service.http.ends import receive_ends
from service.http.openapi import BINARY
from service.http.responses import problems

router = APIRouter(dependencies=[Depends(require_key), Depends(known_name), Depends(same_site)], tags=["jobs"])


class EstimatedOutput(BaseModel):
    """The expected result."""

    width: int = Field(description="Width in pixels as stored, before rotation.")
    height: int = Field(description="Height in pixels as stored, before rotation.")
    frames: int | None = Field(description="Number of frames; null if the file does not state its length.")
    frame_rate: float = Field(description="Average number of frames per second.")
    duration_seconds: float | None = Field(description="Duration of the video in seconds.")
    bytes: int | None = Field(description="Size of the file in bytes.")


class EstimateDocument(BaseModel):
    """Expected time and size of a job's result."""

    input: StreamFacts = Field(description="Properties of the file.")
    output: EstimatedOutput
    model: str = Field(description="Name of the model.")
    scale: float = Field(description="Enlargement of width and height.")
    seconds: float | None = Field(description="Seconds of processing; null if unknown, see `warnings`.")
    seconds_low: float | None = Field(description="Lower bound: one of ten jobs takes less.")
    seconds_high: float | None = Field(description="Upper bound: one of ten jobs takes more.")
    wait_seconds: float | None = Field(
        description="Seconds until a worker would take the job; null if no worker is alive, or the speed is unknown."
    )
    workers: int = Field(description="Number of live workers that have the model.")
    basis: Basis | None = Field(
        description="measured: from finished work like this job; calibrated: from other work, or from a few frames at "
        "the worker's start; null if `seconds` is null."
    )
    warnings: list[str] = Field(description="Properties of the file that the result cannot keep, and other remarks.")

    @classmethod
    def of(cls, answer: Answer) -> EstimateDocument:
        """Create the document of an estimate."""
        known = answer.estimate
        return cls(
            input=answer.admission.facts,
            output=EstimatedOutput(**answer.output._asdict()),
            model=answer.model,
            scale=answer.scale,
            seconds=known and known.seconds,
            seconds_low=known and known.seconds_low,
            seconds_high=known and known.seconds_high,
            wait_seconds=answer.wait_seconds,
            workers=answer.workers,
            basis=known and known.basis,
            warnings=answer.warnings,
        )


_FORM: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/EstimateForm"}}},
    }
}


def estimate_form_schema() -> dict[str, Any]:
    """Return the JSON schema of the form of `POST /estimate`."""
    options = JobRequest.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    own = {
        "head": BINARY | {"description": f"The first bytes of the file, at most {HEAD_BYTES:,}; or the whole file."},
        "tail": BINARY | {"description": f"The last bytes of the file, at most {TAIL_BYTES:,}; none of `head`."},
        "size": {"type": "integer", "minimum": 1, "description": "Size of the whole file in bytes."},
        "filename": {"type": "string", "description": "Name of the file."},
        "upload": {"type": "string", "description": "Id of a resumable upload, instead of `head`, `tail` and `size`."},
    }
    return {"EstimateForm": {"title": "EstimateForm", "type": "object", "properties": own | options}}


@router.post(
    "/estimate",
    dependencies=[needs(Scope.SUBMIT)],
    openapi_extra=_FORM,
    summary="Estimate a job",
    responses=problems(400, 401, 403, 404, 408, 410, 413, 415, 422, 503, 507),
)
async def estimate(
    request: Request, settings: SettingsDep, estimating: EstimatingDep, operations: JobsDep
) -> EstimateDocument:
    """Estimate size, time and wait of a job from the ends of a file, or from an upload.

    Nothing is kept. Problem `header-not-sent`: the ends do not hold the file's header; upload the file.
    """
    with estimating.place():
        form = await receive_ends(request, Pace.of(settings))
        options = options_from_text(form.options)
        if form.ends is not None:
            answer = await estimating.of_ends(operations, options, form.ends)
        else:
            answer = await estimating.of_upload(operations, options, form.upload)
    return EstimateDocument.of(answer)
