"""Conditional requests (RFC 9110, section 13): is a client's copy current, and does a change still apply."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from hashlib import sha256
from typing import ClassVar, Final

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from jobs.errors import SkipVsrError

_SAFE: Final = ("GET", "HEAD")
_CONDITIONS: Final = ("if-match", "if-unmodified-since", "if-none-match", "if-modified-since")
_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


class PreconditionFailed(SkipVsrError):
    """The document has changed since the client's last read."""

    status: ClassVar[int] = 412
    title: ClassVar[str] = "Precondition failed"
    cure: ClassVar[str] = "Read the document again, and repeat the request with its `ETag` in `If-Match`."


@dataclass(frozen=True)
class Version:
    """The identity of a version of a document or file."""

    etag: str
    """Strong entity tag, with its quotes."""
    modified: datetime | None = None
    """Time of the last change; None: unknown."""

    @classmethod
    def of(cls, content: bytes, modified: datetime | None = None) -> Version:
        """The version of a content."""
        return cls(f'"{sha256(content).hexdigest()[:32]}"', modified)

    @property
    def headers(self) -> dict[str, str]:
        """`ETag` and `Last-Modified`."""
        found = {"ETag": self.etag}
        if self.modified is not None:
            found["Last-Modified"] = format_datetime(self.modified.astimezone(UTC), usegmt=True)
        return found


def check(request: Request, version: Version) -> bool:
    """Evaluate a request's conditions; return False if the client's copy is current (304).

    Raises PreconditionFailed if the request demands another version.
    """
    if _has_changed(request, version):
        raise PreconditionFailed("this version no longer exists: read the document again, then repeat the request")
    safe, tags = request.method in _SAFE, _tags(request, "if-none-match")
    if tags is not None:
        known = "*" in tags or version.etag in {tag.removeprefix("W/") for tag in tags}
        if known and not safe:
            raise PreconditionFailed("this version exists already (If-None-Match): send the request without the header")
        return not known
    return not (safe and _is_older(version, _time(request, "if-modified-since")))


def conditional(request: Request) -> bool:
    """Whether a request has a condition."""
    return any(name in request.headers for name in _CONDITIONS)


def check_document(request: Request, document: BaseModel, modified: datetime | None = None) -> None:
    """Evaluate the conditions of a request that changes a document. Raises PreconditionFailed."""
    check(request, Version.of(_content(document), modified))


def document_response(request: Request, document: BaseModel, modified: datetime | None = None) -> Response:
    """Answer a request for a document: the document, or 304 if the client's copy is current."""
    content = _content(document)
    version = Version.of(content, modified)
    headers = version.headers | {"Cache-Control": "private, no-cache", "Vary": "Authorization, X-API-Key, Cookie"}
    if not check(request, version):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type="application/json")


def _content(document: BaseModel) -> bytes:
    return document.model_dump_json().encode()


def _has_changed(request: Request, version: Version) -> bool:
    """Whether `If-Match`, or without it `If-Unmodified-Since`, names another version."""
    tags = _tags(request, "if-match")
    if tags is not None:
        return "*" not in tags and version.etag not in tags
    since = _time(request, "if-unmodified-since")
    return since is not None and version.modified is not None and not _is_older(version, since)


def _is_older(version: Version, since: datetime | None) -> bool:
    """Whether the last change is not after a time. Times in headers are whole seconds."""
    return since is not None and version.modified is not None and version.modified.replace(microsecond=0) <= since


def _tags(request: Request, name: str) -> list[str] | None:
    """The entity tags in a header; None without the header."""
    if name not in request.headers:
        return None
    text = ", ".join(request.headers.getlist(name))
    return ["*"] if text.strip() == "*" else _TAG.findall(text)


def _time(request: Request, name: str) -> datetime | None:
    """The time in a header; None without a valid time."""
    try:
        found = parsedate_to_datetime(request.headers.get(name, ""))
    except (ValueError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
