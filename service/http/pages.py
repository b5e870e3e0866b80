"""The web page and the API's description: plain HTML files, which need no build step and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)
_FOLDER = Path(__file__).parent / "static"


@router.get("/")
@router.head("/")
async def index() -> HTMLResponse:
    """Drop a video, watch it being upscaled, compare, download."""
    return _page("index.html")


@router.get("/docs")
@router.head("/docs")
async def docs() -> HTMLResponse:
    """The API's description, made readable from /openapi.json by the page itself."""
    return _page("docs.html")


@router.get("/favicon.ico")
async def favicon() -> Response:
    """Pages bring their own icon; browsers ask here nevertheless."""
    return Response(status_code=204, headers={"Cache-Control": "max-age=86400"})


def _page(name: str) -> HTMLResponse:
    text, policy = _read(name)
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


@cache
def _read(name: str) -> tuple[str, str]:
    """A page and the policy that lets only its own script and style run."""
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
