"""Routes that say how the service is: for load balancers and for Prometheus. They need no key."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request

from jobs.errors import StoreUnavailable
from service.http.dependencies import MetricsDep, OperationsDep
from service.http.documents import Health, Readiness, problems

router = APIRouter(tags=["service"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Is the process alive?", responses=problems())
async def healthz() -> Health:
    """Answers as long as the process does; asks nobody else."""
    return Health(version=version("skipvsr"))


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", summary="Can it do work?", responses=problems(503))
def readyz(operations: OperationsDep) -> Readiness:
    """Ready when Redis answers and at least one worker is alive; else 503 with the reason."""
    workers = operations.workers()
    if not workers:
        raise NoWorker("no worker is alive: start one with `skipvsr worker`")
    return Readiness(workers=workers)


class NoWorker(StoreUnavailable):
    """Nobody would do the work."""

    title = "No worker"


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=PlainTextResponse,
    responses={200: {"description": "Prometheus's text format, or OpenMetrics where it is asked for."}, **problems()},
)
def metrics(request: Request, metrics: MetricsDep) -> PlainTextResponse:
    """Queue, workers, uploads, requests. Workers have an endpoint each (`SKIPVSR_WORKER_METRICS_PORT`)."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return PlainTextResponse(encode(metrics.registry), headers={"Content-Type": content_type})
