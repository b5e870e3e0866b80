"""Answers on their way to and from the wire. What protobuf does with a frame's bytes is to copy them, six times in all.

An upscaled frame of 1280x720 RGB24 is 2.8 MB. A field's bytes lie in a protobuf message as they are, behind its tag and
length. So the server puts them there once, from where the network left them, and a client may look at them where they
lie. The message is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from proto import upscaler_pb2 as pb

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["UpscalerService"].full_name
_LENGTH_DELIMITED: Final = 2


@dataclass(frozen=True)
class FrameResponse:
    """A `StreamResponse` with a frame."""

    frame: pb.OutputFrame
    """All of it but its data."""
    data: bytes | memoryview
    """Bytes, or a contiguous buffer of them."""


def serialize(response: pb.StreamResponse | FrameResponse) -> bytes:
    """A message of the stream as bytes."""
    if isinstance(response, pb.StreamResponse):
        return bytes(response.SerializeToString())
    size = memoryview(response.data).nbytes
    frame = response.frame.SerializeToString() + _head(_DATA, size)
    return b"".join((_head(_FRAME, len(frame) + size), frame, response.data))


def parse(message: bytes) -> pb.StreamResponse | FrameResponse:
    """A message of the stream from its bytes; a frame's data is a view of them. Raises DecodeError."""
    if message.startswith(_FRAME):
        size, at = _read_varint(message, len(_FRAME))
        if at + size == len(message) and (found := _find(message, at, _DATA)) is not None:
            tag, begin, end = found
            frame = pb.OutputFrame.FromString(message[at:tag] + message[end:])
            return FrameResponse(frame, memoryview(message)[begin:end])
    response: pb.StreamResponse = pb.StreamResponse.FromString(message)
    return response


def register(servicer: Any, server: Any) -> None:
    """Add the UpscalerService to a server, as the generated code does, but with this serializer."""
    handlers = {
        "Stream": grpc.stream_stream_rpc_method_handler(
            servicer.Stream, request_deserializer=pb.StreamRequest.FromString, response_serializer=serialize
        ),
        "ListModels": grpc.unary_unary_rpc_method_handler(
            servicer.ListModels,
            request_deserializer=pb.ListModelsRequest.FromString,
            response_serializer=pb.ListModelsResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))


def caller(channel: Any) -> Any:
    """The method `Stream` of the service behind a channel, as the generated stub has it, but with this parser."""
    return channel.stream_stream(
        f"/{_SERVICE}/Stream", request_serializer=pb.StreamRequest.SerializeToString, response_deserializer=parse
    )


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
    """A number, and where it ends. Raises DecodeError."""
    number = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    raise DecodeError("a number does not end")


def _find(message: bytes, at: int, wanted: bytes) -> tuple[int, int, int] | None:
    """The last field with that tag, from `at` on: where its tag, its bytes and what follows begin."""
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
                raise DecodeError(f"there is no wire type {tag & 7}")
    if at != len(message):
        raise DecodeError("the message is cut off")
    return found


_FRAME: Final = _tag(pb.StreamResponse, "frame")
_DATA: Final = _tag(pb.OutputFrame, "data")
