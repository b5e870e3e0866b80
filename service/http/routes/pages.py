"""HTML pages: the web interface and the API documentation. Static files, no build step, no external resources."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from service.callers import Scope
from service.http.auth import COOKIE, CallerDep, known_name, require_key, same_site

router = APIRouter(include_in_schema=False)
_FILES: Final = StaticFiles(directory=Path(__file__).parents[1] / "static")
_TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
"""Types of the files below /static. The system's own table of types may name others, which browsers refuse."""
_POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' blob:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
"""Content-Security-Policy. Uploads and results are no scripts to a browser: `nosniff` and their types forbid that."""
_NO_MARKUP: Final = {"require-trusted-types-for": "'script'", "trusted-types": "'none'"}
"""The web interface never makes markup from text: a file's name cannot become a script."""


class Rights(BaseModel):
    """The rights of the request's API key."""

    name: str
    scopes: list[Scope]


@router.get("/")
async def index(request: Request) -> Response:
    """Return the web interface: upload queue, jobs, comparison."""
    return await _page("index.html", request, _POLICY | _NO_MARKUP)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Return the API documentation: Swagger UI, which renders /openapi.json."""
    return await _page("docs.html", request, _POLICY)


@router.get("/static/{path:path}")
async def static(path: str, request: Request) -> Response:
    """Return a script, style sheet or icon of the pages."""
    media_type = _TYPES.get(PurePosixPath(path).suffix)
    if media_type is None:
        raise HTTPException(404)
    return await _file(path, request, media_type)


@router.get("/session", dependencies=[Depends(known_name)])
def rights(caller: CallerDep) -> Rights:
    """Return the rights of the request's key: the page offers only allowed actions."""
    return Rights(name=caller.name, scopes=sorted(Scope if caller.admin else caller.scopes))


@router.post("/session", dependencies=[Depends(require_key), Depends(known_name), Depends(same_site)])
def session(caller: CallerDep) -> Response:
    """Set the page's read-only cookie for a request with an API key."""
    response = Response(status_code=204)
    if caller.cookie:
        response.set_cookie(COOKIE, caller.cookie, httponly=True, samesite="strict")
    return response


@router.get("/favicon.ico")
async def favicon() -> Response:
    """Return nothing. The pages name their icon, but browsers request this path anyway."""
    return Response(status_code=204, headers={"Cache-Control": "max-age=86400"})


async def _page(name: str, request: Request, policy: dict[str, str]) -> Response:
    response = await _file(name, request, "text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in policy.items())
    return response


async def _file(path: str, request: Request, media_type: str) -> Response:
    """Return a file with its ETag, or 304. Browsers ask again each time, and never mix files of two versions."""
    response = await _FILES.get_response(path, request.scope)
    if response.status_code == 200:
        response.headers["Content-Type"] = media_type
    response.headers["Cache-Control"] = "no-cache"
    return response
