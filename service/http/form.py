"""Streaming multipart parser: the file goes to disk while it arrives, the text fields are returned.

Starlette's form parser spools the whole file before the handler runs, without a size limit. This parser enforces the
limit while bytes arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from jobs.errors import InvalidRequest
from service.admission import Pace, oversized
from service.names import harmless_name

FILE_FIELD = "file"
_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 4096
_BUFFER_BYTES = 1 << 20
"""Bytes buffered before a write, so that a thread is needed once per MiB and not once per packet."""
_FORM_OVERHEAD_BYTES = 1 << 20
"""Bytes allowed for boundaries, part headers and text fields, in addition to the file."""


class Target(Protocol):
    """Receives the form's file."""

    def write(self, data: bytes) -> None:
        """Take the next bytes of the file; called in a thread."""


@dataclass(frozen=True)
class ReceivedForm:
    """A complete form: name and size of its file, and its text fields."""

    filename: str
    size_bytes: int
    fields: dict[str, str]


@dataclass
class _Part:
    """The part of the form that is being parsed."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    is_file: bool = False
    value: bytearray = field(default_factory=bytearray)


class _FormBuilder:
    """Collects fields and file bytes from the parser's callbacks. Does no I/O."""

    def __init__(self, max_file_bytes: int) -> None:
        self.max_file_bytes = max_file_bytes
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.file_size = 0
        self.buffer = bytearray()
        self.complete = False
        self._part = _Part()
        self._header = bytearray()
        self._value = bytearray()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._part = _Part()

    def _header_end(self) -> None:
        self._part.headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition"))
        self._part.name = _text(options.get(b"name", b""))
        self._part.is_file = b"filename" in options
        if not self._part.name:
            raise InvalidRequest("a part of the form has no name: send fields as multipart/form-data (curl -F)")
        if self._part.is_file:
            self._begin_file(options[b"filename"])
        else:
            self._begin_field()

    def _begin_file(self, filename: bytes) -> None:
        if self._part.name != FILE_FIELD:
            raise InvalidRequest(f"the video goes into the field 'file', not '{self._part.name[:80]}'")
        if self.filename is not None:
            raise InvalidRequest("the form has more than one file: send one video per request")
        self.filename = harmless_name(_text(filename))

    def _begin_field(self) -> None:
        if self._part.name in self.fields:
            raise InvalidRequest(f"the field '{self._part.name[:80]}' is given twice")
        if len(self.fields) >= _MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {_MAX_FIELDS} fields")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.is_file:
            self.file_size += end - start
            if self.file_size > self.max_file_bytes:
                raise oversized(self.max_file_bytes)
            self.buffer += memoryview(data)[start:end]
            return
        if len(self._part.value) + end - start > _MAX_FIELD_BYTES:
            raise InvalidRequest(f"the field '{self._part.name[:80]}' is longer than {_MAX_FIELD_BYTES} bytes")
        self._part.value += data[start:end]

    def _part_end(self) -> None:
        if not self._part.is_file:
            self.fields[self._part.name] = _text(self._part.value).strip()

    def _end(self) -> None:
        self.complete = True


async def receive(request: Request, target: Target, *, max_file_bytes: int, pace: Pace) -> ReceivedForm:
    """Parse the request's form and write its file to `target`. The caller removes the file after an exception.

    Raises:
        InvalidRequest: the body is no valid form, or its file is missing or empty.
        TooLarge: the file exceeds `max_file_bytes`.
        UploadStalled: bytes arrived too slowly for `pace`.
        StorageFull, OSError: writing failed.
        ClientDisconnect: the client disconnected.
    """
    form = await _parse(request, _boundary(request), target, max_file_bytes, pace)
    if form.filename is None:
        raise InvalidRequest("the form contains no file: send the video as the field 'file' (curl -F file=@clip.mp4)")
    if form.file_size == 0:
        raise InvalidRequest(f"the file '{form.filename}' is empty")
    return ReceivedForm(form.filename, form.file_size, form.fields)


def announced_bytes(request: Request, max_file_bytes: int) -> int:
    """Return the body size from Content-Length, or 0 if unknown. Raises TooLarge before any byte is read."""
    text = request.headers.get("content-length", "")
    size = int(text) if text.isdecimal() else 0
    if size > max_file_bytes + _FORM_OVERHEAD_BYTES:
        raise oversized(max_file_bytes)
    return size


async def _parse(request: Request, boundary: bytes, target: Target, max_file_bytes: int, pace: Pace) -> _FormBuilder:
    form = _FormBuilder(max_file_bytes)
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        total = 0
        async for packet in _packets(request, pace):
            total += len(packet)
            if total > max_file_bytes + _FORM_OVERHEAD_BYTES:
                raise oversized(max_file_bytes)
            parser.write(packet)
            if len(form.buffer) >= _BUFFER_BYTES:
                await _write(target, form.buffer)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest("the form is malformed: send multipart/form-data (curl -F file=@clip.mp4)") from error
    if not form.complete:
        raise InvalidRequest("the upload was cut off before the form's closing boundary: send the file again")
    await _write(target, form.buffer)
    return form


async def _packets(request: Request, pace: Pace) -> AsyncIterator[bytes]:
    """Yield the body's packets. Raises UploadStalled if they arrive too slowly."""
    stream = request.stream()
    while True:
        try:
            packet = await asyncio.wait_for(anext(stream), pace.wait())
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise pace.error() from None
        pace.received(len(packet))
        yield packet


async def _write(target: Target, buffer: bytearray) -> None:
    await anyio.to_thread.run_sync(target.write, bytes(buffer))
    buffer.clear()


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidRequest("send the video as multipart/form-data with a boundary (curl -F file=@clip.mp4)")
    return options[b"boundary"]


def _text(raw: bytes | bytearray) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
