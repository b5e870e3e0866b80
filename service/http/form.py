"""Streaming multipart parser: the file goes to disk while it arrives, the text fields are returned.

Starlette's form parser spools the whole file before the handler runs, without a size limit. This parser enforces the
limit while bytes arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from jobs.errors import InvalidRequest
from service.admission import Pace, oversized
from service.http.packets import FORM_OVERHEAD_BYTES, Sink, packets
from service.names import harmless_name

FILE_FIELD = "file"
MAX_FIELDS = 32
_MAX_FIELD_BYTES = 4096


@dataclass(frozen=True)
class ReceivedForm:
    """A complete form: name and size of its file, and its text fields."""

    filename: str | None
    """None: the form has no file."""
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

    def taken(self) -> bytearray:
        """The bytes of the file that have arrived since the last call."""
        taken, self.buffer = self.buffer, bytearray()
        return taken

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
        if len(self.fields) >= MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {MAX_FIELDS} fields")

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


async def receive(request: Request, sink: Sink, *, max_file_bytes: int, pace: Pace) -> ReceivedForm:
    """Parse the request's form and write its file, if any, to `sink`.

    Raises the same errors as `service.http.body.receive`.
    """
    form = _FormBuilder(max_file_bytes)
    try:
        parser = MultipartParser(_boundary(request), form.callbacks())  # type: ignore[arg-type]
        total = 0
        async for packet in packets(request, pace):
            total += len(packet)
            if total > max_file_bytes + FORM_OVERHEAD_BYTES:
                raise oversized(max_file_bytes)
            parser.write(packet)
            if form.filename is not None:
                await (await sink.open()).add(form.taken())
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest("the form is malformed: send multipart/form-data (curl -F file=@clip.mp4)") from error
    if not form.complete:
        raise InvalidRequest("the upload was cut off before the form's closing boundary: send the file again")
    if form.filename is not None:
        await (await sink.open()).flush()
    return ReceivedForm(form.filename, form.file_size, form.fields)


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
