"""Job routes. They only translate between HTTP and `service.operations`."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from jobs.names import MEDIA_TYPES, media_type, result_name
from jobs.schema import JobRequest, JobState
from service.callers import Scope
from service.http.auth import CallerDep, JobsDep, known_name, needs, require_key, same_site
from service.http.conditions import check_document, conditional, document_response
from service.http.dependencies import SettingsDep, UploadsDep
from service.http.files import file_response
from service.http.openapi import BINARY
from service.http.responses import (
    FILE_HEADERS,
    LISTED,
    VERSIONED,
    FiguresList,
    JobDocument,
    JobFigures,
    JobList,
    ModelList,
    WorkerList,
    problems,
    shown,
)
from service.http.waiting import WAITS, WaitingDep, retry_after

router = APIRouter(dependencies=[Depends(require_key), Depends(known_name), Depends(same_site)], tags=["jobs"])

_FILE: dict[str, Any] = BINARY | {"description": "The video."}
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"$ref": "#/components/schemas/UpscaleForm"}},
            "application/json": {"schema": {"$ref": "#/components/schemas/UpscaleRequest"}},
            "application/octet-stream": {"schema": _FILE},
        },
    }
}


def _unchanged(job_id: str, request: Request, operations: JobsDep) -> None:
    """Raise PreconditionFailed if the request names another version of the job's document."""
    if conditional(request):
        document = JobDocument.of(operations.get(job_id))
        check_document(request, document, document.modified)


_READ, _SUBMIT = [needs(Scope.READ)], [needs(Scope.SUBMIT)]
_CHANGE = [*_SUBMIT, Depends(_unchanged)]
_IDEMPOTENCY_KEY = "Unique text per upload. Repeating a request with the same key within a day returns the same job."


def upscale_form_schema() -> dict[str, Any]:
    """Return the JSON schemas of the form and the JSON document of `POST /upscale`: a video and the job's options."""
    schema = JobRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    source = {
        "upload": {"type": "string", "description": "Id of a complete resumable upload, instead of a file."},
        "url": {"type": "string", "description": "Address of a video, instead of a file. Off by default."},
        "filename": {"type": "string", "description": "Name of the file; empty: the name that came with the file."},
    }
    form = schema | {"title": "UpscaleForm", "properties": {"file": _FILE, **source, **schema["properties"]}}
    document = schema | {"title": "UpscaleRequest", "properties": {**source, **schema["properties"]}}
    return {"UpscaleForm": form, "UpscaleRequest": document, **definitions}


def _raw_body() -> dict[str, Any]:
    """OpenAPI of a request whose body is the file, with the name in the path and the options in the query."""
    name = {"name": "filename", "in": "path", "required": True, "schema": {"type": "string"}}
    options = JobRequest.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
    return {
        "parameters": [name, *({"name": key, "in": "query", "schema": value} for key, value in options.items())],
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _FILE}}},
    }


_QUEUED: dict[str, Any] = {
    "status_code": 202,
    "dependencies": _SUBMIT,
    "response_model": JobDocument,
    "response_description": "The job is queued. Poll the address in `Location`.",
    "responses": {
        202: {
            "headers": {
                "Location": {"description": "The job's address.", "schema": {"type": "string"}},
                "Idempotency-Replayed": {
                    "description": "`true` if an earlier request with the same `Idempotency-Key` created the job.",
                    "schema": {"type": "string"},
                },
                "Retry-After": {
                    "description": "Seconds after which to ask for the job.",
                    "schema": {"type": "string"},
                },
            }
        },
        **problems(400, 401, 403, 404, 408, 409, 410, 413, 415, 422, 423, 429, 502, 503, 507),
    },
}


@router.put(
    "/upscale/{filename:path}",
    openapi_extra=_raw_body(),
    summary="Upscale the video in the body",
    name="upscale_body",
    **_QUEUED,
)
@router.post("/upscale", openapi_extra=_FORM, summary="Upscale a video", name="upscale", **_QUEUED)
async def upscale(
    request: Request,
    response: Response,
    uploads: UploadsDep,
    operations: JobsDep,
    waiting: WaitingDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255, description=_IDEMPOTENCY_KEY)] = None,
) -> JobDocument:
    """Send a video as the field `file` of a form or as the body, or name an upload; options are fields or parameters.

    The file is streamed to disk.
    """
    filename = request.path_params.get("filename")
    job, replayed = await uploads.receive(request, idempotency_key, operations, filename)
    request.state.job_id = job.id  # for the audit log
    job = await waiting.settled(job)
    response.headers["Retry-After"] = retry_after(job)
    document = JobDocument.of(job)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    response.headers["Location"] = document.links.self
    return document


@router.get("/models", summary="List models", responses=problems(401, 503))
def list_models(operations: JobsDep) -> ModelList:
    """List the models of all live workers, including user models. The option `model` accepts these names."""
    return ModelList(models=operations.models())


@router.get("/workers", summary="List workers", responses=problems(401, 503))
def list_workers(operations: JobsDep, caller: CallerDep) -> WorkerList:
    """List the live workers. Only an administrator sees their names, hosts, processes and jobs."""
    return WorkerList(workers=shown(operations.workers(), trusted=caller.admin))


@router.get(
    "/jobs",
    summary="List jobs",
    dependencies=_READ,
    response_model=JobList,
    responses={**LISTED, **problems(400, 401, 403, 412, 503)},
)
def list_jobs(
    request: Request,
    operations: JobsDep,
    state: Annotated[list[JobState], Query(description="Only jobs in this state; may be given several times.")] = [],  # noqa: B006
    q: Annotated[str, Query(max_length=200, description="Only jobs whose file name contains this text.")] = "",
    limit: Annotated[int, Query(ge=1, le=500, description="Maximum number of jobs.")] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000, description="Number of jobs to leave out at the start.")] = 0,
) -> Response:
    """List the jobs of the API key, newest first. An administrator sees the jobs of all keys."""
    found = operations.page(state, q, limit=limit, offset=offset)
    following = _address(request, offset + limit) if offset + limit < found.total else None
    jobs = [JobDocument.of(job) for job in found.jobs]
    response = document_response(request, JobList(jobs=jobs, total=found.total, next=following, counts=found.counts))
    if following:
        response.headers["Link"] = f'<{following}>; rel="next"'
    return response


def _address(request: Request, offset: int) -> str:
    """The request's own address with another offset."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "offset"]
    return f"{request.url.path}?{urlencode([*kept, ('offset', offset)])}"


@router.get(
    "/metrics/jobs", summary="Measurements of recent jobs", dependencies=_READ, responses=problems(400, 401, 403, 503)
)
def job_figures(
    operations: JobsDep, last: Annotated[int, Query(ge=1, le=500, description="Number of jobs.")] = 50
) -> FiguresList:
    """Return the measurements of each recent job. `/metrics` has the totals for Prometheus."""
    return FiguresList(jobs=[JobFigures.of(job) for job in operations.recent(limit=last)])


@router.get(
    "/jobs/{job_id}",
    summary="Get a job",
    dependencies=[*_READ, WAITS],
    response_model=JobDocument,
    responses={**VERSIONED, **problems(400, 401, 403, 404, 412, 503)},
)
def get_job(job_id: str, request: Request, operations: JobsDep) -> Response:
    """Return state, progress and measurements of a job."""
    document = JobDocument.of(operations.get(job_id))
    return document_response(request, document, document.modified)


@router.post(
    "/jobs/{job_id}/cancel",
    summary="Cancel a job",
    dependencies=_CHANGE,
    responses=problems(401, 403, 404, 409, 412, 503),
)
def cancel_job(job_id: str, operations: JobsDep) -> JobDocument:
    """Stop a job and remove its files. A running job stops within a frame's time. Cancelling twice is harmless."""
    return JobDocument.of(operations.cancel(job_id))


@router.delete(
    "/jobs/{job_id}",
    summary="Cancel or delete a job",
    dependencies=_CHANGE,
    responses=problems(401, 403, 404, 409, 412, 503),
)
def delete_job(job_id: str, operations: JobsDep) -> JobDocument:
    """Cancel an active job, or delete a finished job for good, with files and document."""
    return JobDocument.of(operations.remove(job_id))


@router.post(
    "/jobs/{job_id}/pause",
    summary="Pause a job",
    dependencies=_CHANGE,
    responses=problems(401, 403, 404, 409, 412, 503),
)
def pause_job(job_id: str, operations: JobsDep) -> JobDocument:
    """Pause a job within a frame's time. Finished chunks are kept, the chunk in work is dropped."""
    return JobDocument.of(operations.pause(job_id))


@router.post(
    "/jobs/{job_id}/resume",
    summary="Resume a job",
    dependencies=_CHANGE,
    responses=problems(401, 403, 404, 409, 410, 412, 429, 503),
)
def resume_job(job_id: str, operations: JobsDep) -> JobDocument:
    """Resume a paused job from the last checkpoint, or a failed job while the job's files exist."""
    return JobDocument.of(operations.resume(job_id))


def _file_responses(*types: str) -> dict[int | str, dict[str, Any]]:
    # Generators of clients look for application/octet-stream, which also is the type of a result in another container.
    content = {"content": {name: {"schema": BINARY} for name in ("application/octet-stream", *types)}}
    part = {"content": {**content["content"], "multipart/byteranges": {"schema": BINARY}}}
    return {
        200: {"description": "The file.", "headers": FILE_HEADERS, **content},
        206: {"description": "The requested range of the file, or ranges.", "headers": FILE_HEADERS, **part},
        304: VERSIONED[304],
    }


_DIRECT = "true: a redirect to the store if the server allows redirects (`SKIPVSR_S3_REDIRECT_SECONDS`), else the file."
DirectQuery = Annotated[bool, Query(description=_DIRECT)]


@router.head("/jobs/{job_id}/result", include_in_schema=False, dependencies=_READ)
@router.get(
    "/jobs/{job_id}/result",
    summary="Download the result",
    dependencies=_READ,
    response_class=FileResponse,
    responses={
        **_file_responses(*MEDIA_TYPES.values()),
        307: {"description": "With `direct=true`: the result is at the address in `Location`."},
        **problems(401, 403, 404, 409, 410, 412, 416, 500, 503),
    },
)
def get_result(
    job_id: str, request: Request, operations: JobsDep, settings: SettingsDep, direct: DirectQuery = False
) -> Response:
    """Download the upscaled video. `Range` requests let players seek and downloads resume (`curl -C -`)."""
    job, file = operations.result(job_id)
    seconds = settings.s3_redirect_seconds if direct and request.method == "GET" else 0
    if seconds and (address := file.address(seconds)) is not None:
        return RedirectResponse(address, 307, {"Cache-Control": "no-store"})
    return file_response(request, file, result_name(job, file.name), media_type(file.name))


@router.head("/jobs/{job_id}/input", include_in_schema=False, dependencies=_READ)
@router.get(
    "/jobs/{job_id}/input",
    summary="Download the upload",
    dependencies=_READ,
    response_class=FileResponse,
    responses={**_file_responses(), **problems(401, 403, 404, 410, 412, 416, 503)},
)
def get_input(job_id: str, request: Request, operations: JobsDep) -> Response:
    """Download the original video while it is kept."""
    job, file = operations.input(job_id)
    # A neutral type: browsers must not interpret untrusted uploads.
    return file_response(request, file, job.filename, "application/octet-stream")
