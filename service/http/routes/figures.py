"""Routes of a job's figures: the report, and the map of computed cells."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from jobs.figures import Report, SkipMapPage
from jobs.names import result_name
from jobs.schema import JobState
from service.callers import Scope
from service.http.auth import JobsDep, known_name, needs, require_key, same_site
from service.http.responses import problems

router = APIRouter(dependencies=[Depends(require_key), Depends(known_name), Depends(same_site)], tags=["jobs"])

_READ = [needs(Scope.READ)]
_MOST_FRAMES = 2000


@router.get(
    "/jobs/{job_id}/report",
    summary="Get the report of a job",
    dependencies=_READ,
    responses=problems(401, 403, 404, 409, 410, 503),
)
def get_report(job_id: str, operations: JobsDep) -> Report:
    """Return the figures of a job, in all and chunk by chunk. A running job's report holds the finished chunks."""
    job, figures = operations.figures(job_id)
    facts, result = figures.facts, operations.storage.result(job_id) if job.state is JobState.DONE else None
    return Report(
        source=job.filename,
        target=None if result is None else result_name(job, result.name),
        model=facts.model,
        device=facts.device,
        precision=facts.precision,
        options=job.options,
        resumed=facts.resumed,
        size=facts.size,
        progress=job.progress,
        metrics=job.metrics,
        chunks=figures.chunks,
        warnings=job.warnings,
    )


@router.get(
    "/jobs/{job_id}/skipmap",
    summary="Get the skip map of a job",
    dependencies=_READ,
    responses=problems(400, 401, 403, 404, 409, 410, 503),
)
def get_skipmap(
    job_id: str,
    operations: JobsDep,
    first: Annotated[int, Query(ge=0, le=2**31, description="Number of the first frame, counted from 0.")] = 0,
    count: Annotated[int, Query(ge=1, le=_MOST_FRAMES, description="Number of frames.")] = 240,
) -> SkipMapPage:
    """Return for each frame in which cells the network ran. A running job's map covers the finished chunks."""
    return operations.figures(job_id)[1].page(first, count)
