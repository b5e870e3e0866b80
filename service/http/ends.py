"""The form of `POST /estimate`: the ends of a file, or the id of an upload, and options."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from jobs.errors import InvalidRequest, TooLarge
from service.admission import Pace
from service.estimating import HEAD_BYTES, TAIL_BYTES, Ends
from service.http.packets import FORM_OVERHEAD_BYTES, content_length, packets

_MOST: Final = HEAD_BYTES + TAIL_BYTES + FORM_OVERHEAD_BYTES
_MAX_FIELDS: Final = 32
_MAX_FIELD_BYTES: Final = 4096


@dataclass(frozen=True)
class EstimateForm:
    """The form: exactly one of `ends` and `upload`."""

    options: dict[str, str]
    ends: Ends | None
    upload: str


class _Parser(MultiPartParser):
    spool_max_size = _MOST  # in memory


async def receive_ends(request: Request, pace: Pace) -> EstimateForm:
    """Read the form.

    Raises InvalidRequest, TooLarge, UploadStalled, and ClientDisconnect.
    """
    if content_length(request) > _MOST:
        raise _too_large()
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise InvalidRequest("send the ends of the file, or upload, as multipart/form-data (curl -F)")
    if options.get(b"charset", b"utf-8").lower() != b"utf-8":
        raise InvalidRequest("send the form in UTF-8")  # among Python's character sets are some that decode nothing
    parser = _Parser(
        request.headers,
        _limited(request, pace),
        max_files=2,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"the form is malformed: {error.message}") from error
    files: dict[str, bytes] = {}
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if name in files or name in fields:
            raise InvalidRequest(f"the field '{name[:80]}' is given twice")
        if isinstance(value, UploadFile):
            files[name] = await value.read()
            await value.close()
        else:
            fields[name] = value.strip()
    return _form(files, fields)


async def _limited(request: Request, pace: Pace) -> AsyncGenerator[bytes]:
    total = 0
    async for packet in packets(request, pace):
        total += len(packet)
        if total > _MOST:
            raise _too_large()
        yield packet


def _too_large() -> TooLarge:
    return TooLarge(f"head may have {HEAD_BYTES:,} bytes and tail {TAIL_BYTES:,}: send the ends of the file only")


def _form(files: dict[str, bytes], fields: dict[str, str]) -> EstimateForm:
    upload, size = fields.pop("upload", ""), fields.pop("size", "")
    fields.pop("filename", None)  # the content decides about the kind of file
    if unknown := sorted(files.keys() - {"head", "tail"}):
        raise InvalidRequest(f"the field '{unknown[0][:80]}' is no file: send head and tail")
    if bool(upload) == bool(files):
        raise InvalidRequest("send either upload, or head (a file) and size")
    if upload:
        return EstimateForm(fields, None, upload)
    if not size.isdecimal() or len(size) > 18:
        raise InvalidRequest("size: send the size of the whole file in bytes")
    return EstimateForm(fields, Ends(files.get("head", b""), files.get("tail", b""), int(size)), "")
