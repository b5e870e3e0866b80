"""File downloads: byte ranges, conditions, HEAD, download names."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, aclosing
from datetime import UTC, datetime
from typing import BinaryIO

from fastapi import Request
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from jobs.disk import open_regular
from jobs.errors import Gone
from jobs.names import content_disposition
from jobs.stored import LocalFile, StoredFile
from service.http.conditions import Version, check

_RANGES = re.compile(r"\s*bytes\s*=\s*(\d*-\d*)(\s*,\s*(\d*-\d*))*\s*")
_CACHING = "private, max-age=3600"
_MAX_DIGITS = 18
"""Digits of a byte offset. Python refuses to parse numbers of thousands of digits."""


def file_response(request: Request, stored: StoredFile, filename: str, media_type: str) -> Response:
    """Create the response for a file: the file, a part of the file, or 304 if the client's copy is current.

    Raises Gone if the file has vanished, JobFailed if the file is a link, PreconditionFailed if the request demands
    another version, and 416 if the range is outside the file.
    """
    if not isinstance(stored, LocalFile):
        return _remote_response(request, stored, filename, media_type)
    try:
        file = open_regular(stored.path)
    except FileNotFoundError as error:
        raise Gone("the file has just been removed") from error
    with ExitStack() as stack:
        stack.enter_context(file)
        response = _OpenFileResponse(file, filename, media_type)
        version = Version(response.headers["etag"], datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC))
        if not check(request, version):
            return Response(status_code=304, headers=version.headers | {"Cache-Control": _CACHING})
        _check_range(request, response)
        stack.pop_all()
    return response


class _OpenFileResponse(FileResponse):
    """Response with an open file: a rename, a removal or a link in the file's place never changes the download."""

    def __init__(self, file: BinaryIO, filename: str, media_type: str) -> None:
        self._file = file
        super().__init__(
            f"/dev/fd/{file.fileno()}",
            media_type=media_type,
            stat_result=os.fstat(file.fileno()),
            headers={"Content-Disposition": content_disposition(filename), "Cache-Control": _CACHING},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def _remote_response(request: Request, stored: StoredFile, filename: str, media_type: str) -> Response:
    """The response for a file of a bucket. Several ranges of a request get the whole file, as RFC 9110 allows."""
    modified = datetime.fromtimestamp(stored.modified, UTC)
    version = Version(stored.etag, modified)
    if not check(request, version):
        return Response(status_code=304, headers=version.headers | {"Cache-Control": _CACHING})
    headers = version.headers | {"Content-Disposition": content_disposition(filename), "Cache-Control": _CACHING}
    response = _StoredResponse(stored, headers | {"Accept-Ranges": "bytes"}, media_type, head=request.method == "HEAD")
    if (text := request.headers.get("range")) is not None:
        kept = _kept(request, response, text, stored.size)
        if len(kept) == 1:
            response.narrow(*_place(kept[0], stored.size))
    return response


class _StoredResponse(Response):
    """Response with a file of any storage, in blocks."""

    def __init__(self, stored: StoredFile, headers: dict[str, str], media_type: str, *, head: bool) -> None:
        super().__init__(headers=headers, media_type=media_type)
        self._stored, self._head = stored, head
        self._first, self._end = 0, stored.size
        self.headers["Content-Length"] = str(stored.size)

    def narrow(self, first: int, end: int) -> None:
        """Send only the bytes from number `first` to before number `end`."""
        self._first, self._end, self.status_code = first, end, 206
        self.headers["Content-Length"] = str(end - first)
        self.headers["Content-Range"] = f"bytes {first}-{end - 1}/{self._stored.size}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        if self._head:
            await send(start)
            await send({"type": "http.response.body"})
            return
        async with self._stored.opened() as file, aclosing(file.blocks(self._first, self._end)) as blocks:
            begun = False
            async for block in blocks:
                if not begun:  # an error of the first block still becomes an answer
                    await send(start)
                    begun = True
                await send({"type": "http.response.body", "body": block, "more_body": True})
            if not begun:
                await send(start)
            await send({"type": "http.response.body"})


def _place(spec: str, size: int) -> tuple[int, int]:
    """First byte and end of a satisfiable range."""
    first, _, last = spec.partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size


def _check_range(request: Request, response: FileResponse) -> None:
    """Keep the satisfiable parts of a Range header (RFC 9110, section 14.2), or raise 416 if all lie outside the file.

    A malformed header, a HEAD request and an If-Range of another version get the whole file. Starlette answers these
    cases itself, but in plain text.
    """
    text, size = request.headers.get("range"), int(response.headers["content-length"])
    if text is None:
        return
    kept = _kept(request, response, text, size)
    request.scope["headers"] = [(key, value) for key, value in request.scope["headers"] if key != b"range"]
    if kept:
        request.scope["headers"].append((b"range", f"bytes={', '.join(kept)}".encode()))


def _kept(request: Request, response: Response, text: str, size: int) -> list[str]:
    """The satisfiable parts of a Range header; nothing for the whole file."""
    current = request.headers.get("if-range") in (None, response.headers["etag"], response.headers["last-modified"])
    if (
        request.method != "GET"
        or not current
        or not _RANGES.fullmatch(text)
        or not all(map(_well_formed, _specs(text)))
    ):
        return []
    kept = [f"{first}-{last}" for first, last in _specs(text) if _satisfiable((first, last), size)]
    if not kept:
        raise HTTPException(
            416,
            f"the range {text[:80]} is outside the file, which has {size} bytes",
            {"Content-Range": f"bytes */{size}"},
        )
    return kept


def _specs(text: str) -> list[tuple[str, str]]:
    return [(first, last) for first, last in re.findall(r"(\d*)-(\d*)", text.partition("=")[2])]


def _well_formed(spec: tuple[str, str]) -> bool:
    first, last = spec
    if max(len(first), len(last)) > _MAX_DIGITS or not (first or last):
        return False
    return not (first and last and int(first) > int(last))


def _satisfiable(spec: tuple[str, str], size: int) -> bool:
    first, last = spec
    return int(first) < size if first else int(last) > 0
