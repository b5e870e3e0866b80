"""HTML pages: the web interface and the API documentation. Static files, no build step, no external resources."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse, Response

from service.http.auth import COOKIE, CallerDep, known_name, require_key, same_site

router = APIRouter(include_in_schema=False)
_FOLDER = Path(__file__).parents[1] / "static"


@router.get("/")
@router.head("/")
async def index() -> HTMLResponse:
    """Return the web interface: upload, progress, comparison, download."""
    return _page("index.html")


@router.post("/session", dependencies=[Depends(require_key), Depends(known_name), Depends(same_site)])
def session(caller: CallerDep) -> Response:
    """Set the page's read-only cookie for a request with an API key."""
    response = Response(status_code=204)
    if caller.cookie:
        response.set_cookie(COOKIE, caller.cookie, httponly=True, samesite="strict")
    return response


@router.get("/docs")
@router.head("/docs")
async def docs() -> HTMLResponse:
    """Return the API documentation, which the page renders from /openapi.json."""
    return _page("docs.html")


@router.get("/favicon.ico")
async def favicon() -> Response:
    """Return nothing. The pages embed their icon, but browsers request this path anyway."""
    return Response(status_code=204, headers={"Cache-Control": "max-age=86400"})


def _page(name: str) -> HTMLResponse:
    text, policy = _read(name)
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


@cache
def _read(name: str) -> tuple[str, str]:
    """Return a page and its Content-Security-Policy, which allows only the page's own script and style."""
    text = (_FOLDER / name).read_text(encoding="utf-8")
    allowed = {tag: " ".join(_hashes(text, tag)) or "'none'" for tag in ("script", "style")}
    policy = {
        "default-src": "'none'",
        "script-src": allowed["script"],
        "style-src": allowed["style"],
        "img-src": "'self' data: blob:",
        "media-src": "'self' blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return text, "; ".join(f"{name} {value}" for name, value in policy.items())


def _hashes(text: str, tag: str) -> list[str]:
    bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in bodies]
