"""Serialisation of frames without extra copies.

Protobuf copies a frame's bytes six times between network and application. An upscaled 1280x720 RGB24 frame is 2.8 MB.
protobuf stores a bytes field unchanged behind its tag and length. This module writes the field directly, and reads the
field as a view of the received message. The bytes on the wire are those of protobuf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from skipvsr.v1 import upscaler_pb2 as pb

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["UpscalerService"].full_name
_LENGTH_DELIMITED: Final = 2


@dataclass(frozen=True)
class FrameRequest:
    """A `StreamRequest` with a frame."""

    frame: pb.InputFrame
    """The frame; its own `data` field is ignored."""
    data: bytes | memoryview
    """The frame's data, contiguous."""


@dataclass(frozen=True)
class FrameResponse:
    """A `StreamResponse` with a frame."""

    frame: pb.OutputFrame
    """The frame without its data."""
    data: bytes | memoryview
    """The frame's data, contiguous."""


StreamMessage = pb.StreamRequest | FrameRequest
"""A parsed message from a client."""


def serialize(response: pb.StreamResponse | FrameResponse) -> bytes:
    """Serialise a response."""
    if isinstance(response, pb.StreamResponse):
        return bytes(response.SerializeToString())
    return _join(_OUTPUT, response.frame, response.data)


def parse(message: bytes) -> pb.StreamResponse | FrameResponse:
    """Parse a response. A frame's data is a view of `message`. Raises DecodeError."""
    if (parts := _split(_OUTPUT, message)) is not None:
        return FrameResponse(pb.OutputFrame.FromString(parts[0]), parts[1])
    response: pb.StreamResponse = pb.StreamResponse.FromString(message)
    return response


def serialize_request(request: StreamMessage) -> bytes:
    """Serialise a request."""
    if isinstance(request, pb.StreamRequest):
        return bytes(request.SerializeToString())
    return _join(_INPUT, request.frame, request.data)


def parse_request(message: bytes) -> StreamMessage:
    """Parse a request. A frame's data is a view of `message`. Raises DecodeError."""
    if (parts := _split(_INPUT, message)) is not None:
        return FrameRequest(pb.InputFrame.FromString(parts[0]), parts[1])
    request: pb.StreamRequest = pb.StreamRequest.FromString(message)
    return FrameRequest(request.frame, request.frame.data) if request.HasField("frame") else request


def register(servicer: Any, server: Any) -> None:
    """Add the UpscalerService to a server, like the generated code, but with these serializers."""
    handlers = {
        "Stream": grpc.stream_stream_rpc_method_handler(
            servicer.Stream, request_deserializer=parse_request, response_serializer=serialize
        ),
        "ListModels": grpc.unary_unary_rpc_method_handler(
            servicer.ListModels,
            request_deserializer=pb.ListModelsRequest.FromString,
            response_serializer=pb.ListModelsResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))


def caller(channel: Any) -> Any:
    """Create the client's `Stream` method, like the generated stub, but with these serializers."""
    return channel.stream_stream(
        f"/{_SERVICE}/Stream", request_serializer=serialize_request, response_deserializer=parse
    )


@dataclass(frozen=True)
class _Tags:
    """Tags of a message's frame field, and of the frame's data field."""

    frame: bytes
    data: bytes


def _join(tags: _Tags, frame: Any, data: bytes | memoryview) -> bytes:
    """Serialise a message whose frame ends with its data field."""
    size = memoryview(data).nbytes
    head = frame.SerializeToString() + _head(tags.data, size)
    return b"".join((_head(tags.frame, len(head) + size), head, data))


def _split(tags: _Tags, message: bytes) -> tuple[bytes, memoryview] | None:
    """Return the frame without its data, and the data. None if the message is not exactly one frame with data.

    Raises DecodeError.
    """
    if message.startswith(tags.frame):
        size, at = _read_varint(message, len(tags.frame))
        if at + size == len(message) and (found := _find(message, at, tags.data)) is not None:
            tag, begin, end = found
            return message[at:tag] + message[end:], memoryview(message)[begin:end]
    return None


def _tag(message: Any, field: str) -> bytes:
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


def _head(tag: bytes, size: int) -> bytes:
    return tag + _varint(size)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a varint and the position after it. Raises DecodeError."""
    number = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    raise DecodeError("a varint is not terminated")


def _find(message: bytes, at: int, wanted: bytes) -> tuple[int, int, int] | None:
    """Find the last field with a tag, from `at` on. Returns the positions of tag, content and end."""
    found = None
    while at < len(message):
        tag_at = at
        tag, at = _read_varint(message, at)
        match tag & 7:
            case 0:
                _, at = _read_varint(message, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                size, at = _read_varint(message, at)
                if message.startswith(wanted, tag_at) and tag_at + len(wanted) <= at:
                    found = (tag_at, at, at + size)
                at += size
            case _:
                raise DecodeError(f"unknown wire type {tag & 7}")
    if at != len(message):
        raise DecodeError("the message is truncated")
    return found


_INPUT: Final = _Tags(_tag(pb.StreamRequest, "frame"), _tag(pb.InputFrame, "data"))
_OUTPUT: Final = _Tags(_tag(pb.StreamResponse, "frame"), _tag(pb.OutputFrame, "data"))
