"""Send a file: ranges, HEAD, and a name that every browser keeps."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from jobs.errors import Gone

_RANGES = re.compile(r"\s*bytes\s*=\s*(\d*-\d*)(\s*,\s*(\d*-\d*))*\s*")


def send(request: Request, path: Path, filename: str, media_type: str) -> FileResponse:
    """The file as a response. Raises Gone if it vanished meanwhile, 416 if the request's range lies outside it."""
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        raise Gone("the file has been removed meanwhile") from error
    response = FileResponse(
        path,
        media_type=media_type,
        stat_result=facts,
        headers={"Content-Disposition": content_disposition(filename), "Cache-Control": "private, max-age=3600"},
    )
    if request.headers.get("if-range") in (None, response.headers["etag"], response.headers["last-modified"]):
        _check_range(request, facts.st_size)  # of another version than the client's it gets all, whatever the range
    return response


def content_disposition(filename: str) -> str:
    """RFC 6266: a plain name for everybody, and the exact one (RFC 8187) where it is not ASCII."""
    plain = re.sub(r'[^ -~]|["\\%/]', "_", filename)
    value = f'attachment; filename="{plain}"'
    return value if plain == filename else f"{value}; filename*=UTF-8''{quote(filename, safe='')}"


def _check_range(request: Request, size: int) -> None:
    """Drop a Range that RFC 9110 says to ignore, refuse one that can't be met; Starlette would do so in plain text."""
    text = request.headers.get("range")
    if text is None:
        return
    if not _RANGES.fullmatch(text) or not all(map(_well_formed, _specs(text))):
        request.scope["headers"] = [(k, v) for k, v in request.scope["headers"] if k != b"range"]
    elif not any(_satisfiable(spec, size) for spec in _specs(text)):
        raise HTTPException(
            416, f"the file has {size} bytes; the range {text[:80]} lies outside", {"Content-Range": f"bytes */{size}"}
        )


def _specs(text: str) -> list[tuple[str, str]]:
    return [(first, last) for first, last in re.findall(r"(\d*)-(\d*)", text.partition("=")[2])]


def _well_formed(spec: tuple[str, str]) -> bool:
    first, last = spec
    return max(len(first), len(last)) < 19 and bool(first or last) and not (first and last and int(first) > int(last))


def _satisfiable(spec: tuple[str, str], size: int) -> bool:
    first, last = spec
    return int(first) < size if first else int(last) > 0
