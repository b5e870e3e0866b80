"""File downloads: byte ranges, HEAD, download names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

import anyio.to_thread
from fastapi import Request
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from jobs.errors import Gone

_RANGES = re.compile(r"\s*bytes\s*=\s*(\d*-\d*)(\s*,\s*(\d*-\d*))*\s*")
_REMOVED = "the file has just been removed"
_MAX_DIGITS = 18
"""Digits of a byte offset. Python refuses to parse numbers of thousands of digits."""


def file_response(request: Request, path: Path, filename: str, media_type: str) -> FileResponse:
    """Create the response for a file. Raises Gone if the file has vanished, 416 if the range is outside the file."""
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        raise Gone(_REMOVED) from error
    response = _OpenFile(
        path,
        media_type=media_type,
        stat_result=facts,
        headers={"Content-Disposition": content_disposition(filename), "Cache-Control": "private, max-age=3600"},
    )
    if request.headers.get("if-range") in (None, response.headers["etag"], response.headers["last-modified"]):
        _check_range(request, facts.st_size)  # if If-Range does not match, the whole file is sent
    return response


class _OpenFile(FileResponse):
    """A file that is opened before the response begins, so that its removal neither breaks nor mixes a download."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            return await super().__call__(scope, receive, send)
        try:
            number = await anyio.to_thread.run_sync(os.open, self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Gone(_REMOVED) from error
        try:
            self.path = f"/dev/fd/{number}"
            await super().__call__(scope, receive, send)
        finally:
            os.close(number)


def content_disposition(filename: str) -> str:
    """Format the header of RFC 6266: an ASCII name, plus the exact name (RFC 8187) if it has other characters."""
    plain = re.sub(r'[^ -~]|["\\%/]', "_", filename)
    value = f'attachment; filename="{plain}"'
    return value if plain == filename else f"{value}; filename*=UTF-8''{quote(filename, safe='')}"


def _check_range(request: Request, size: int) -> None:
    """Drop a malformed Range header (RFC 9110), or raise 416 for an unsatisfiable range.

    Starlette answers both cases itself, but in plain text.
    """
    text = request.headers.get("range")
    if text is None:
        return
    if not _RANGES.fullmatch(text) or not all(map(_well_formed, _specs(text))):
        request.scope["headers"] = [(k, v) for k, v in request.scope["headers"] if k != b"range"]
    elif not any(_satisfiable(spec, size) for spec in _specs(text)):
        raise HTTPException(
            416,
            f"the range {text[:80]} is outside the file, which has {size} bytes",
            {"Content-Range": f"bytes */{size}"},
        )


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
