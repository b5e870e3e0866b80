"""File downloads: byte ranges, HEAD, download names."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from jobs.errors import Gone
from jobs.storage import open_regular

_RANGES = re.compile(r"\s*bytes\s*=\s*(\d*-\d*)(\s*,\s*(\d*-\d*))*\s*")
_MAX_DIGITS = 18
"""Digits of a byte offset. Python refuses to parse numbers of thousands of digits."""


def file_response(request: Request, path: Path, filename: str, media_type: str) -> FileResponse:
    """Create the response for a file.

    Raises Gone if the file has vanished, JobFailed if the file is a link, and 416 if the range is outside the file.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError as error:
        raise Gone("the file has just been removed") from error
    with ExitStack() as stack:
        stack.enter_context(file)
        response = _OpenFileResponse(file, filename, media_type)
        _check_conditions(request, response)
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
            headers={"Content-Disposition": content_disposition(filename), "Cache-Control": "private, max-age=3600"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def _check_conditions(request: Request, response: FileResponse) -> None:
    if request.headers.get("if-range") in (None, response.headers["etag"], response.headers["last-modified"]):
        # If If-Range does not match, the whole file is sent.
        _check_range(request, int(response.headers["content-length"]))


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
