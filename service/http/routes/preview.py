"""Route of previews: frames of a job as pictures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from jobs.schema import JobState
from media.preview import MOST
from service.callers import Scope
from service.http.auth import JobsDep, known_name, needs, require_key, same_site
from service.http.conditions import Version, check
from service.http.dependencies import PreviewsDep
from service.http.openapi import BINARY
from service.http.previews import View
from service.http.responses import problems

MEDIA_TYPE = "image/webp"
router = APIRouter(dependencies=[Depends(require_key), Depends(known_name), Depends(same_site)], tags=["jobs"])
_TIME = "Time of the frame, in seconds from the first frame; without: the newest finished frame."
_VIEW = "source: the upload; result: the upscaled video; bicubic: the upload, enlarged to the size of the result."
_HEADERS = {
    "Skipvsr-Time": {"description": "Time of the frame in seconds.", "schema": {"type": "string"}},
    "ETag": {"description": "This picture, for `If-None-Match` (304).", "schema": {"type": "string"}},
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture.",
        "headers": _HEADERS,
        # Client generators take only application/octet-stream for a file.
        "content": {name: {"schema": BINARY} for name in ("application/octet-stream", MEDIA_TYPE)},
    },
    304: {"description": "The client's copy is current.", "headers": _HEADERS},
}


@router.get(
    "/jobs/{job_id}/preview",
    summary="See a frame of a job",
    status_code=200,
    response_class=Response,
    dependencies=[needs(Scope.READ)],
    responses={**_RESPONSES, **problems(400, 401, 403, 404, 409, 410, 412, 413, 415, 422, 500, 503)},
)
async def get_preview(
    job_id: str,
    request: Request,
    operations: JobsDep,
    previews: PreviewsDep,
    view: Annotated[View, Query(description=_VIEW)] = View.RESULT,
    t: Annotated[float | None, Query(ge=0, le=1e7, allow_inf_nan=False, description=_TIME)] = None,
    width: Annotated[int | None, Query(ge=16, le=MOST[0], description="Largest width of the picture.")] = None,
) -> Response:
    """Return a frame of the source or of the result, also while the job runs, as players show it."""
    job, made = await previews.picture(operations, job_id, view, t, width, request.is_disconnected)
    version = Version.of(made.webp)
    kept = "max-age=3600" if t is not None or job.state is JobState.DONE else "no-cache"
    headers = version.headers | {
        "Skipvsr-Time": f"{made.seconds:.6f}",
        "Cache-Control": f"private, {kept}",
        "Vary": "Authorization, X-API-Key, Cookie",
    }
    if not check(request, version):
        return Response(status_code=304, headers=headers)
    return Response(made.webp, headers=headers, media_type=MEDIA_TYPE)
