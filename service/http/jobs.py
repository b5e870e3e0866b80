"""Routes of jobs. Each one only translates between HTTP and `jobs.operations`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.responses import FileResponse
from starlette.requests import ClientDisconnect

from jobs import idempotency as once
from jobs.errors import SkipVsrError, StoreUnavailable
from jobs.idempotency import Reservation
from jobs.schema import Job, JobOptions, JobState
from jobs.settings import Settings
from service import admission as intake
from service.http import files, upload
from service.http.auth import known_name, require_key, same_site
from service.http.dependencies import MetricsDep, OperationsDep, SettingsDep
from service.http.documents import FiguresList, JobDocument, JobFigures, JobList, ModelList, problems
from service.http.metrics import HttpMetrics
from service.names import MEDIA_TYPES, media_type, result_name
from service.operations import Operations

log = logging.getLogger(__name__)

router = APIRouter(dependencies=[Depends(require_key), Depends(known_name), Depends(same_site)], tags=["jobs"])

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/UpscaleForm"}}},
    }
}


_ONCE = "Any text that is new for each video: sent again with the same text within a day, it makes no second job."


def upscale_form_schema() -> dict[str, Any]:
    """The form that `POST /upscale` takes, as a JSON schema: a file, and the fields of JobOptions."""
    schema = JobOptions.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    file = {"type": "string", "contentMediaType": "application/octet-stream", "description": "The video."}
    schema |= {
        "title": "UpscaleForm",
        "required": ["file"],
        "properties": {"file": file, **schema["properties"]},
    }
    return {"UpscaleForm": schema, **definitions}


@router.post(
    "/upscale",
    status_code=202,
    response_model=JobDocument,
    openapi_extra=_FORM,
    summary="Upscale a video",
    response_description="The job is queued; `Location` says where to ask for it.",
    responses={
        202: {"headers": {"Location": {"description": "The job's address.", "schema": {"type": "string"}}}},
        **problems(400, 401, 403, 408, 409, 413, 415, 422, 503, 507),
    },
)
async def upscale(
    request: Request,
    response: Response,
    operations: OperationsDep,
    settings: SettingsDep,
    metrics: MetricsDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255, description=_ONCE)] = None,
) -> JobDocument:
    """Send a video as the form's field `file`, options as further fields. It is streamed to disk as it arrives."""
    found: Job | Reservation | None = None
    if idempotency_key is not None:
        found = await run_in_threadpool(operations.begin_once, idempotency_key)
    if isinstance(found, Job):
        job = found
    else:
        async with _kept(operations, found):
            job = await _take(request, operations, settings, metrics, found)
    document = JobDocument.of(job)
    response.headers["Location"] = document.links.self
    return document


@asynccontextmanager
async def _kept(operations: Operations, reservation: Reservation | None) -> AsyncIterator[None]:
    """Keep a reserved key for as long as the block lasts, and let it go where the block fails."""
    if reservation is None:
        yield
        return

    async def keep() -> None:
        while True:
            await asyncio.sleep(once.RENEW_SECONDS)
            with suppress(StoreUnavailable):
                await run_in_threadpool(operations.keep_once, reservation)

    keeping = asyncio.create_task(keep())
    try:
        yield
    except BaseException:
        with suppress(StoreUnavailable):  # then it ends by itself
            await run_in_threadpool(operations.drop_once, reservation)
        raise
    finally:
        keeping.cancel()


async def _take(
    request: Request, operations: Operations, settings: Settings, metrics: HttpMetrics, reservation: Reservation | None
) -> Job:
    """Receive a video, look at it, queue it."""
    try:
        announced = upload.announced_bytes(request, settings.max_upload_bytes)
        async with contextmanager_in_threadpool(operations.upload(announced)) as incoming:
            form = await upload.receive(
                request, incoming, max_file_bytes=settings.max_upload_bytes, idle_seconds=settings.upload_idle_seconds
            )
            await run_in_threadpool(incoming.close)
            options = intake.options_from_text(form.fields)
            await run_in_threadpool(operations.check_model, options.model)
            # Each look at a file is a process of its own: a few at a time, however many uploads there are.
            admission = await anyio.to_thread.run_sync(
                intake.admit, incoming.path, options, settings, limiter=request.app.state.probes
            )
            job = await run_in_threadpool(operations.submit, incoming.path, form.filename, admission, reservation)
    except SkipVsrError as error:
        metrics.rejected.labels(error.kind).inc()
        raise
    except ClientDisconnect:
        metrics.rejected.labels("client-gone").inc()
        raise
    metrics.upload_bytes.inc(form.size_bytes)
    request_id = request.state.request_id
    extra = {"job_id": job.id, "request_id": request_id, "bytes": form.size_bytes}
    log.info("job %s: queued by request %s", job.id, request_id, extra=extra)
    return job


@router.get("/models", summary="List models", responses=problems(401, 503))
def list_models(operations: OperationsDep) -> ModelList:
    """Names that `model` may have: those whose weights a worker has which is alive, files of your own included."""
    return ModelList(models=operations.models())


@router.get("/jobs", summary="List jobs", responses=problems(400, 401, 503))
def list_jobs(
    operations: OperationsDep,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> JobList:
    """Jobs, newest first."""
    found = operations.recent(state=state, limit=limit, offset=offset)
    return JobList(jobs=[JobDocument.of(job) for job in found])


@router.get("/metrics/jobs", summary="Figures of the last jobs", responses=problems(400, 401, 503))
def job_figures(
    operations: OperationsDep, last: Annotated[int, Query(ge=1, le=500, description="How many jobs.")] = 50
) -> FiguresList:
    """What was measured of each of the last jobs; `/metrics` has the same, summed up, for Prometheus."""
    return FiguresList(jobs=[JobFigures.of(job) for job in operations.recent(limit=last)])


@router.get("/jobs/{job_id}", summary="Ask for a job", responses=problems(401, 404, 503))
def get_job(job_id: str, operations: OperationsDep) -> JobDocument:
    """State, progress and measured figures of a job."""
    return JobDocument.of(operations.get(job_id))


@router.post("/jobs/{job_id}/cancel", summary="Cancel a job", responses=problems(401, 403, 404, 409, 503))
def cancel_job(job_id: str, operations: OperationsDep) -> JobDocument:
    """Stop a job, at the next chunk if it is running, and remove its files. Cancelling twice is fine."""
    return JobDocument.of(operations.cancel(job_id))


@router.delete("/jobs/{job_id}", summary="Cancel or remove a job", responses=problems(401, 403, 404, 409, 503))
def delete_job(job_id: str, operations: OperationsDep) -> JobDocument:
    """Cancel a job that is not over. One that is over is removed for good: its files, and its document."""
    return JobDocument.of(operations.remove(job_id))


@router.post("/jobs/{job_id}/pause", summary="Pause a job", responses=problems(401, 403, 404, 409, 503))
def pause_job(job_id: str, operations: OperationsDep) -> JobDocument:
    """Stop a job at its next chunk, and keep what is done."""
    return JobDocument.of(operations.pause(job_id))


@router.post("/jobs/{job_id}/resume", summary="Resume a job", responses=problems(401, 403, 404, 409, 410, 503))
def resume_job(job_id: str, operations: OperationsDep) -> JobDocument:
    """Let a paused job go on where it stopped; or one that failed, while its files are kept."""
    return JobDocument.of(operations.resume(job_id))


def _file(*types: str) -> dict[int | str, dict[str, Any]]:
    content = {"content": {name: {"schema": {"type": "string", "contentMediaType": name}} for name in types}}
    return {
        200: {"description": "The file.", **content},
        206: {"description": "The part of it that `Range` asks for.", **content},
    }


@router.head("/jobs/{job_id}/result", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/result",
    summary="Download the result",
    response_class=FileResponse,
    responses={**_file(*MEDIA_TYPES.values()), **problems(401, 404, 409, 410, 416, 500, 503)},
)
def get_result(job_id: str, request: Request, operations: OperationsDep) -> FileResponse:
    """The upscaled video. Takes `Range`, so that a player can seek and a download can go on."""
    job, path = operations.result(job_id)
    return files.send(request, path, result_name(job, path), media_type(path))


@router.head("/jobs/{job_id}/input", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/input",
    summary="Download the upload",
    response_class=FileResponse,
    responses={**_file("application/octet-stream"), **problems(401, 404, 410, 416, 503)},
)
def get_input(job_id: str, request: Request, operations: OperationsDep) -> FileResponse:
    """The video as it was uploaded, while it is kept."""
    job, path = operations.input(job_id)
    # Never a type that a browser would run: what strangers upload is data.
    return files.send(request, path, job.filename, "application/octet-stream")
