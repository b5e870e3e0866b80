"""Error responses: every error becomes application/problem+json (RFC 9457) with a one-line `detail`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from jobs.errors import FieldError, InvalidRequest, SkipVsrError
from jobs.schema import PROBLEMS, InvalidField, InvalidProblem, Problem
from service.admission import invalid
from service.http.methods import allowed

MEDIA_TYPE = "application/problem+json"
_DISCONNECTED = "the client disconnected before the upload was complete"
_DETAILS = {
    404: "nothing exists at {path}; /docs lists all paths",
}
log = logging.getLogger(__name__)


def document(
    status: int, title: str, detail: str, *, kind: str | None = None, errors: Sequence[FieldError] = ()
) -> Problem:
    """Create a problem document. `kind` sets its type to `/problems/<kind>`; the default type is about:blank."""
    found = Problem(type=f"{PROBLEMS}{kind}" if kind else "about:blank", title=title, status=status, detail=detail)
    if status != HTTPStatus.BAD_REQUEST:
        return found
    fields = [InvalidField(field=error.field, detail=error.detail) for error in errors]
    return InvalidProblem(**found.model_dump(), errors=fields)


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    kind: str | None = None,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Create the response with a problem document."""
    content = document(status, title, detail, kind=kind, errors=errors).model_dump()
    return JSONResponse(
        content, status, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store", **(headers or {})}
    )


def from_error(error: SkipVsrError) -> Response:
    """Create the problem document of an error."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="skipvsr"'
    if error.status == HTTPStatus.REQUEST_TIMEOUT:
        headers["Connection"] = "close"  # the rest of the upload is not read
    errors = error.errors if isinstance(error, InvalidRequest) else ()
    return problem(error.status, error.title, str(error), kind=error.kind, errors=errors, headers=headers)


def install(app: FastAPI) -> None:
    """Register exception handlers: the application answers every error with a problem document."""

    @app.exception_handler(SkipVsrError)
    async def _skipvsr_error(request: Request, error: SkipVsrError) -> Response:
        if error.status >= 500 and request.url.path != "/readyz":  # /readyz reports 503 as its normal answer
            log.warning("%s: %s", error.title, error)
        return from_error(error)

    @app.exception_handler(RequestValidationError)
    async def _validation_error(request: Request, error: RequestValidationError) -> Response:
        return from_error(invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def _http_exception(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return _other_method(request)
        title = HTTPStatus(error.status_code).phrase
        detail = error.detail
        if detail == title:
            detail = _DETAILS.get(error.status_code, title).format(path=request.url.path)
        return problem(error.status_code, title, detail, headers=error.headers)

    @app.exception_handler(ClientDisconnect)
    async def _client_disconnect(request: Request, error: ClientDisconnect) -> Response:
        # The client never receives this response. It ends the request without a traceback in the log.
        log.info(_DISCONNECTED)
        return problem(400, "Bad Request", _DISCONNECTED)


def _other_method(request: Request) -> Response:
    """Answer a method without a route: OPTIONS lists the path's methods; any other method is an error."""
    methods = allowed(request.scope)
    headers = {"Allow": ", ".join(methods)}
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=headers)
    others = ", ".join(method for method in methods if method != "OPTIONS")
    detail = f"{request.url.path} does not support {request.method}, but {others}"
    return problem(405, "Method Not Allowed", detail, headers=headers)
