"""Application factory. State lives on the application: a process can run several applications."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from jobs.recovery import Recovery
from jobs.settings import Settings
from jobs.store.changes import Changes
from jobs.store.outbox import Outbox
from jobs.upkeep import Upkeep
from media.jail import checked_jail
from service.admission import Admissions
from service.api_key import ApiKeys
from service.estimating import Estimating
from service.fetch import Fetcher
from service.http import openapi, problems
from service.http.api_metrics import ApiMetrics
from service.http.methods import HeadMiddleware
from service.http.middleware import RequestMiddleware
from service.http.previews import Previews
from service.http.routes import estimate, events, figures, health, jobs, pages, preview, problem_pages, uploads
from service.http.streams import Streams
from service.http.tus import Tus
from service.http.upload import Uploads
from service.http.webhooks import Webhooks
from service.operations import Operations

_UNTRACED = ("/healthz", "/readyz", "/metrics")
"""Paths that are polled every few seconds. Tracing them would bury the other spans."""
_DESCRIPTION = """
Upload a video with `POST /upscale`, poll the job at the address in `Location`, and download the result at the end.
Every error is a problem document (RFC 9457). The document's `detail` names the problem and a remedy, in one line.
"""


def create_app(settings: Settings) -> FastAPI:
    """Create the HTTP service. The settings must have a Redis URL; Redis may start later.

    Raises NoJail if the settings demand the decoder's jail, and the kernel does not enforce all layers.
    """
    app = FastAPI(
        title="SkipVSR",
        summary="Self-hosted video upscaling",
        description=_DESCRIPTION.strip(),
        version="1",
        docs_url=None,
        telemetry={"metrics": False, "logs": False, "operation_spans": False, "exclude": _untraced},
        redirect_slashes=False,  # a redirect would trust the request's Host header
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=_running,
    )
    app.state.jail_missing = checked_jail(required=settings.require_jail)
    operations = Operations.from_settings(settings)
    metrics = ApiMetrics(operations)
    app.state.settings, app.state.operations, app.state.metrics = settings, operations, metrics
    app.state.keys = ApiKeys(settings)
    admissions = Admissions(settings)
    app.state.uploads = Uploads(settings, metrics, admissions, Fetcher(settings))
    app.state.estimating = Estimating(settings, admissions)
    url = str(settings.redis_address)
    app.state.streams = Streams(Changes(url), settings, operations.announced)
    app.state.webhooks = Webhooks(Outbox(url), settings, metrics, operations.announced)
    app.state.previews = Previews(settings)
    app.state.tus = Tus(settings, app.state.uploads)
    app.include_router(jobs.router)
    app.include_router(estimate.router)
    app.include_router(figures.router)
    app.include_router(events.router)
    app.include_router(preview.router)
    app.include_router(uploads.router)
    app.include_router(uploads.public)
    app.include_router(health.router)
    app.include_router(pages.router)
    app.include_router(problem_pages.router)
    problems.install(app)
    app.add_middleware(uploads.TusHeaders)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(RequestMiddleware, metrics=metrics)
    forms = jobs.upscale_form_schema() | estimate.estimate_form_schema()
    app.openapi = lambda: openapi.description(app, forms)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _running(app: FastAPI) -> AsyncIterator[None]:
    """While the application runs: list the jobs again that Redis has lost, follow changes, deliver webhooks."""
    operations: Operations = app.state.operations
    upkeep = Upkeep.of_a_server(app.state.settings, operations.storage, operations.store.knows)
    recovery = Recovery(operations.store, operations.storage, upkeep)
    recovery.start()
    try:
        async with app.state.streams.running(), app.state.webhooks.running():
            yield
    finally:
        await run_in_threadpool(recovery.stop)


def _untraced(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path") in _UNTRACED
