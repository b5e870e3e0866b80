"""The meaning of each kind of error, and the remedy: the pages behind `type` of problem documents."""

from __future__ import annotations

import base64
import hashlib
import html
import inspect
import re
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field

from jobs.errors import NotFound, SkipVsrError
from jobs.schema import PROBLEMS
from service.http.responses import problems

router = APIRouter(tags=["service"])

_STYLE: Final = (
    "body{font:1rem/1.6 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem;color:#1c2025;"
    "background:#fff}code{background:#eef0f3;padding:0 .25em}a{color:#0b57a4}"
    "@media(prefers-color-scheme:dark){body{color:#e4e7eb;background:#14171a}code{background:#262b31}a{color:#8ec1ff}}"
)
_DIGEST: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "max-age=3600",
    "Vary": "Accept",
}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}


class ProblemKind(BaseModel):
    """A kind of error."""

    type: str = Field(description="The `type` of problem documents of this kind.")
    title: str = Field(description="Name of the kind.")
    status: int = Field(description="HTTP status code.")
    meaning: str = Field(description="What is wrong.")
    cure: str = Field(description="What a person can do.")


class ProblemKinds(BaseModel):
    """All kinds of errors, by status."""

    problems: list[ProblemKind]


@router.get(
    "/problems", summary="List the kinds of errors", response_model=ProblemKinds, responses={**_RESPONSES, **problems()}
)
def list_problems(request: Request) -> Response:
    """Return the kinds of errors: JSON, or a page for browsers (`Accept: text/html`)."""
    found = sorted(map(_about, SkipVsrError.kinds().values()), key=lambda kind: (kind.status, kind.type))
    items = "".join(f'<li>{kind.status}: <a href="{kind.type}">{html.escape(kind.title)}</a></li>' for kind in found)
    return _answer(request, ProblemKinds(problems=found), "Errors", f"<ul>{items}</ul>")


@router.get(
    "/problems/{kind}",
    summary="Explain a kind of error",
    response_model=ProblemKind,
    responses={**_RESPONSES, **problems(404)},
)
def explain_problem(kind: str, request: Request) -> Response:
    """Return title, meaning and cure of a kind of error: JSON, or a page for browsers (`Accept: text/html`)."""
    found = SkipVsrError.kinds().get(kind)
    if found is None:
        raise NotFound(f"There is no kind of error {kind[:80]!r}: /problems lists all kinds.")
    about = _about(found)
    text = (
        f"<p>{_marked(about.meaning)}</p><h2>What to do</h2><p>{_marked(about.cure)}</p><p>Status {about.status}.</p>"
    )
    return _answer(request, about, about.title, f'{text}<p><a href="/problems">All errors</a></p>')


def _about(kind: type[SkipVsrError]) -> ProblemKind:
    """Describe a class of errors."""
    meaning = (inspect.getdoc(kind) or kind.title).partition("\n")[0]
    address = f"{PROBLEMS}{kind.name()}"
    return ProblemKind(type=address, title=kind.title, status=kind.status, meaning=meaning, cure=kind.cure)


def _answer(request: Request, document: BaseModel, title: str, body: str) -> Response:
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse(document.model_dump(), headers=_HEADERS)
    name = html.escape(title)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name} – SkipVSR</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{name}</h1>{body}</main></body></html>",
        headers=_HEADERS,
    )


def _marked(text: str) -> str:
    """Text as HTML, with `code` marked."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
