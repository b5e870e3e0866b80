"""The ways in which a request sends a video and options.

A form with the file, the raw bytes of the file, the id of a resumable upload, or a URL. A form, a JSON document or the
query holds the options. All bytes of a file go to disk while they arrive.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from jobs.errors import InvalidRequest
from service.admission import Pace, oversized
from service.http import form
from service.http.packets import FORM_OVERHEAD_BYTES, Sink, announced_bytes, content_type, packets
from service.names import harmless_name

_FORM: Final = "multipart/form-data"
_FIELDS: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"
_MAX_BYTES: Final = 64 * 1024
"""Maximum bytes of a body without a file."""
_SETTINGS: Final = ("wait",)
"""Parameters of the query that are no options of the job."""
_NO_VIDEO: Final = (
    "the request contains no file: send the video as the field 'file' of a form (curl -F file=@clip.mp4), as the body "
    "(curl -T clip.mp4), or name a resumable upload (upload=ID)"
)


@dataclass(frozen=True)
class Received:
    """The content of a request: exactly one of a file, an upload's id and a URL; and the options."""

    filename: str
    size_bytes: int
    """Size of the file; 0 without a file."""
    fields: dict[str, str]
    upload: str = ""
    url: str = ""


async def receive(
    request: Request, sink: Sink, *, max_file_bytes: int, pace: Pace, filename: str | None = None
) -> Received:
    """Read a request; its file goes to `sink`. The caller removes the file after an exception.

    Args:
        request: the request.
        sink: the place of the file.
        max_file_bytes: maximum size of the file.
        pace: time limits.
        filename: the file's name, if the address holds the name; the body is then the file.

    Raises:
        InvalidRequest: the body is malformed, or names no video or several videos.
        TooLarge: the file exceeds `max_file_bytes`.
        UploadStalled: bytes arrived too slowly for `pace`.
        StorageFull, LimitReached, OSError: the file could not be stored.
        ClientDisconnect: the client disconnected.
    """
    if announced_bytes(request, max_file_bytes) > FORM_OVERHEAD_BYTES:
        await sink.open()  # the body must be a file: refuse before the first byte
    query = _once((name, text) for name, text in request.query_params.multi_items() if name not in _SETTINGS)
    kind = content_type(request)
    given, size = "", 0
    if filename is None and kind == _FORM:
        received = await form.receive(request, sink, max_file_bytes=max_file_bytes, pace=pace)
        given, size, fields = received.filename or "", received.size_bytes, received.fields
    elif filename is None and kind == _JSON:
        fields = _from_json(await _small(request, pace))
    elif filename is None and kind == _FIELDS and "filename" not in query:
        fields = _from_text(await _small(request, pace))
    else:
        size, fields = await _raw(request, sink, max_file_bytes, pace), {}
        given = "video" if size else ""
    return _one_video(given, size, _once([*query.items(), *fields.items()]), filename)


def _one_video(given: str, size: int, fields: dict[str, str], filename: str | None) -> Received:
    """Check that the request names one video."""
    named = fields.pop("filename", filename)
    upload, url = fields.pop("upload", ""), fields.pop("url", "")
    if not (given or upload or url):
        raise InvalidRequest(_NO_VIDEO)
    if sum(map(bool, (given, upload, url))) > 1:
        raise InvalidRequest("the request names more than one video: send one of file, upload and url")
    if given and size == 0:
        raise InvalidRequest(f"the file '{given}' is empty")
    return Received(harmless_name(named) if named else given, size, fields, upload, url)


async def _raw(request: Request, sink: Sink, max_file_bytes: int, pace: Pace) -> int:
    """Store a body that is the file itself; return its size."""
    size = 0
    async for packet in packets(request, pace):
        size += len(packet)
        if size > max_file_bytes:
            raise oversized(max_file_bytes)
        if packet:
            await (await sink.open()).add(packet)
    if size:
        await (await sink.open()).flush()
    return size


async def _small(request: Request, pace: Pace) -> str:
    """Read a body without a file."""
    body = bytearray()
    async for packet in packets(request, pace):
        body += packet
        if len(body) > _MAX_BYTES:
            raise InvalidRequest(
                f"the body is longer than {_MAX_BYTES:,} bytes: send a video as its own type, for example with "
                "-H 'Content-Type: video/mp4'"
            )
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is no UTF-8 text: send a video with -H 'Content-Type: video/mp4'") from error


def _from_json(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest('the body is no JSON document, for example {"upload": "ID", "scale": 2}') from error
    if not isinstance(found, dict):
        raise InvalidRequest('the body is no JSON object, for example {"upload": "ID", "scale": 2}')
    try:
        "".join(text for pair in found.items() for text in pair if isinstance(text, str)).encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("the body holds half of a character, such as \\ud800: send whole characters") from error
    fields = {}
    for name, value in found.items():
        if not isinstance(value, str | int | float | None):
            raise InvalidRequest(f"{name[:80]}: text or a number is needed")
        fields[name] = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return fields


def _from_text(text: str) -> dict[str, str]:
    try:
        return _once(parse_qsl(text, keep_blank_values=True, max_num_fields=form.MAX_FIELDS))
    except ValueError as error:
        raise InvalidRequest(f"the form has more than {form.MAX_FIELDS} fields") from error


def _once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The fields by their names. Raises InvalidRequest if a name occurs twice."""
    fields: dict[str, str] = {}
    for name, text in pairs:
        if name in fields:
            raise InvalidRequest(f"the field '{name[:80]}' is given twice")
        fields[name] = text
    return fields
