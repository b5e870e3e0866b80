"""The application, built from settings; nothing is global, so that a process may hold several."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from jobs.schema import Problem
from jobs.settings import Settings
from service.http import health, jobs, pages, problems
from service.http.metrics import HttpMetrics
from service.http.middleware import RequestMiddleware
from service.operations import Operations

_PROBES = 4
"""Uploads that are looked at (each in a process of its own) at the same time."""
_DESCRIPTION = """
Send a video to `POST /upscale`, ask for the job at the address in `Location` until it is done, fetch its result.
Every error is a problem document (RFC 9457) whose `detail` says in one line what was wrong and what to do.
"""


def create_app(settings: Settings) -> FastAPI:
    """The HTTP service. The settings must name a Redis; it need not answer yet."""
    app = FastAPI(
        title="SkipVSR",
        summary="Self-hosted video upscaling",
        description=_DESCRIPTION.strip(),
        version="1",
        docs_url=None,
        telemetry={"metrics": False, "logs": False, "operation_spans": False, "exclude": _unremarkable},
        redirect_slashes=False,  # it would send people to whatever the Host header says
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings = settings
    app.state.operations = Operations.from_settings(settings)
    app.state.probes = CapacityLimiter(_PROBES)
    app.state.metrics = HttpMetrics(app.state.operations)
    app.include_router(jobs.router)
    app.include_router(health.router)
    app.include_router(pages.router)
    problems.install(app)
    app.add_middleware(RequestMiddleware, metrics=app.state.metrics)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _unremarkable(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request is not worth a span: probes and scrapes come every few seconds."""
    return scope.get("path") in ("/healthz", "/readyz", "/metrics")


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, with the schemas that it can't see: the streamed form and the problem document."""
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
        for operation in (one for path in document["paths"].values() for one in path.values()):
            if "security" in operation:
                operation["security"].append({})  # no key is needed where none is set
        app.openapi_schema = document
    return app.openapi_schema
