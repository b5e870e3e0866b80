"""Health, readiness and metrics, for load balancers and Prometheus. These routes need no API key."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request

from jobs.errors import StoreUnavailable
from media.jail import LAYERS
from service.http.auth import is_admin, known_name
from service.http.dependencies import JailDep, MetricsDep, OperationsDep
from service.http.responses import Component, Health, Readiness, problems, shown

router = APIRouter(tags=["service"])


class NoWorker(StoreUnavailable):
    """No worker is alive: no job would be processed."""

    title = "No worker"
    cure = "Start a worker with `skipvsr worker`, or the whole service with `skipvsr up`."


@router.get("/healthz", summary="Check that the process is alive", responses=problems())
async def healthz() -> Health:
    """Return ok while the process runs. Redis and workers are not checked."""
    return Health(version=version("skipvsr"))


@router.get(
    "/readyz",
    summary="Check that jobs can be processed",
    responses=problems(403, 503),
    dependencies=[Depends(known_name)],
)
def readyz(operations: OperationsDep, jail: JailDep, trusted: Annotated[bool, Depends(is_admin)]) -> Readiness:
    """Return the live workers, or 503 if Redis or the bucket does not answer, or no worker is alive.

    Without an administrator's API key, the workers have no name, host name, process id, machine and job.
    """
    workers = operations.workers()
    if not workers:
        raise NoWorker("no worker is alive: start a worker with `skipvsr worker`")
    operations.storage.check()
    components = [Component(name=f"jail: {layer}", status="missing" if layer in jail else "ok") for layer in LAYERS]
    return Readiness(workers=shown(workers, trusted=trusted), components=components)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=PlainTextResponse,
    responses={200: {"description": "Prometheus text format, or OpenMetrics on request."}, **problems(403)},
    dependencies=[Depends(known_name)],
)
def metrics(request: Request, metrics: MetricsDep) -> PlainTextResponse:
    """Return metrics of queue, workers, uploads and requests. Each worker has its own endpoint.

    `SKIPVSR_WORKER_METRICS_PORT` sets the port of the workers' endpoints.
    """
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return PlainTextResponse(encode(metrics.registry), headers={"Content-Type": content_type})
