"""Receive a multipart form: the file goes straight to disk, piece by piece, and the fields are returned.

Starlette's own form parser spools the whole file before the handler sees it, without a limit on its size; here the
limit holds while the bytes come in, and whatever ends the request early takes the half-written file with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from jobs.errors import InvalidRequest, TooLarge, UploadStalled
from jobs.incoming import Incoming
from service.names import harmless_name

FILE_FIELD = "file"
_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 4096
_BUFFER_BYTES = 1 << 20
"""Bytes that are gathered before a write: one thread hop a MiB instead of one a packet."""
_FORM_OVERHEAD_BYTES = 1 << 20
"""What a form's boundaries, headers and fields may take beyond the file itself."""


@dataclass(frozen=True)
class Upload:
    """A form that has arrived whole: what is known of its file, and the other fields as text."""

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


class _Form:
    """Turns the parser's callbacks into fields and file bytes; does no I/O itself."""

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
            if self._part.name != FILE_FIELD:
                raise InvalidRequest(f"the video goes into the field 'file', not '{self._part.name[:80]}'")
            if self.filename is not None:
                raise InvalidRequest("one video a request: the form has more than one file")
            self.filename = harmless_name(_text(options[b"filename"]))
        elif self._part.name in self.fields:
            raise InvalidRequest(f"the field '{self._part.name[:80]}' is there twice")
        elif len(self.fields) >= _MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {_MAX_FIELDS} fields")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.is_file:
            self.file_size += end - start
            if self.file_size > self.max_file_bytes:
                raise _too_large(self.max_file_bytes)
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


async def receive(request: Request, target: Incoming, *, max_file_bytes: int, idle_seconds: float) -> Upload:
    """Read the request's form; its file is written to `target`.

    The caller removes the file if this raises: InvalidRequest (not such a form), TooLarge, UploadStalled, StorageFull
    or OSError from writing, or Starlette's ClientDisconnect.
    """
    form = await _read(request, _boundary(request), target, max_file_bytes, idle_seconds)
    if form.filename is None:
        raise InvalidRequest(
            "there is no file in the form: send the video as the field 'file' (curl -F file=@clip.mp4)"
        )
    if form.file_size == 0:
        raise InvalidRequest(f"the file '{form.filename}' is empty")
    return Upload(form.filename, form.file_size, form.fields)


def announced_bytes(request: Request, max_file_bytes: int) -> int:
    """The size that the request says its body has (0: it does not say). Raises TooLarge before a byte is read."""
    text = request.headers.get("content-length", "")
    size = int(text) if text.isdecimal() else 0
    if size > max_file_bytes + _FORM_OVERHEAD_BYTES:
        raise _too_large(max_file_bytes)
    return size


async def _read(request: Request, boundary: bytes, target: Incoming, max_file_bytes: int, idle_seconds: float) -> _Form:
    form = _Form(max_file_bytes)
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        stream = request.stream()
        total = 0
        while True:
            try:
                packet = await asyncio.wait_for(anext(stream), idle_seconds)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise UploadStalled(
                    f"nothing came for {idle_seconds:g} s (SKIPVSR_UPLOAD_IDLE_SECONDS): send the file again"
                ) from None
            total += len(packet)
            if total > max_file_bytes + _FORM_OVERHEAD_BYTES:
                raise _too_large(max_file_bytes)
            parser.write(packet)
            if len(form.buffer) >= _BUFFER_BYTES:
                await _write(target, form.buffer)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest("the form is malformed: send multipart/form-data (curl -F file=@clip.mp4)") from error
    if not form.complete:
        raise InvalidRequest("the form ends before its closing boundary: the upload was cut off, send it again")
    await _write(target, form.buffer)
    return form


async def _write(target: Incoming, buffer: bytearray) -> None:
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


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the upload is larger than {limit:,} bytes, the limit that SKIPVSR_MAX_UPLOAD_BYTES sets")
