"""Answers on their way to the wire. What protobuf does with a frame's bytes is to copy them, four times.

An upscaled frame of 1280x720 RGB24 is 2.8 MB. A field's bytes lie in a protobuf message as they are, behind its tag and
length, so here they are put there once, from where the network left them; what a client gets is the same message.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import grpc

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


_FRAME: Final = _tag(pb.StreamResponse, "frame")
_DATA: Final = _tag(pb.OutputFrame, "data")
