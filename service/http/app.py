"""Application factory. State lives on the application, so one process can run several applications."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi

from jobs.recovery import Recovery
from jobs.schema import Problem
from jobs.settings import Settings
from media.jail import checked_jail
from service.admission import Admissions
from service.api_key import ApiKeys
from service.http import problems
from service.http.api_metrics import ApiMetrics
from service.http.middleware import RequestMiddleware
from service.http.routes import figures, health, jobs, pages
from service.http.upload import Uploads
from service.operations import Operations

_UNTRACED = ("/healthz", "/readyz", "/metrics")
"""Paths that are polled every few seconds. Tracing them would bury the other spans."""
_DESCRIPTION = """
Upload a video with `POST /upscale`, poll the job at the address in `Location`, and download the result when it is done.
Every error is a problem document (RFC 9457). Its `detail` states in one line what was wrong and how to fix it.
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
        lifespan=_recovering,
    )
    app.state.jail_missing = checked_jail(required=settings.require_jail)
    operations = Operations.from_settings(settings)
    metrics = ApiMetrics(operations)
    app.state.settings, app.state.operations, app.state.metrics = settings, operations, metrics
    app.state.keys = ApiKeys(settings)
    app.state.uploads = Uploads(settings, metrics, Admissions(settings))
    app.include_router(jobs.router)
    app.include_router(figures.router)
    app.include_router(health.router)
    app.include_router(pages.router)
    problems.install(app)
    app.add_middleware(RequestMiddleware, metrics=metrics)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _recovering(app: FastAPI) -> AsyncIterator[None]:
    """List the jobs again that Redis has lost, while the application runs."""
    operations: Operations = app.state.operations
    recovery = Recovery(operations.store, operations.storage)
    recovery.start()
    try:
        yield
    finally:
        await run_in_threadpool(recovery.stop)


def _untraced(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path") in _UNTRACED


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Build the OpenAPI document once: FastAPI's own, plus the upload form and the problem document."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        schemas = document["components"]["schemas"]
        schemas.update(jobs.upscale_form_schema())
        schemas[Problem.__name__] = Problem.model_json_schema()
        document["components"]["schemas"] = dict(sorted(schemas.items()))
        for operation in _operations(document):
            if "security" in operation:
                operation["security"].append({})  # servers without an API key need no credentials
        app.openapi_schema = document
    return app.openapi_schema


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()
