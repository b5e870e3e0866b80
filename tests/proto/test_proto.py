"""Generated code, naming rules of upscaler.proto, and the wire format."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr.v1.wire import FrameRequest, FrameResponse, parse, parse_request, serialize, serialize_request
from tests.support.paths import ROOT

PACKAGE = ROOT / "proto" / "skipvsr" / "v1"
SOURCE = (PACKAGE / "upscaler.proto").read_text()


def test_generated_code_is_current(tmp_path: Path) -> None:
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "grpc_tools.protoc",
        "-Iproto",
        *outputs,
        "skipvsr/v1/upscaler.proto",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    made = sorted((tmp_path / "skipvsr" / "v1").iterdir())
    assert len(made) == 3
    for path in made:
        assert path.read_text() == (PACKAGE / path.name).read_text(), f"{path.name}: run `make proto`"


def test_every_declaration_has_a_comment() -> None:
    lines = SOURCE.splitlines()
    declaration = re.compile(
        r"\s*(message|enum|service|rpc|oneof|optional|repeated|[\w.]+ \w+ = \d+;|[A-Z_0-9]+ = \d+;)"
    )
    for number, line in enumerate(lines):
        if declaration.match(line) and not line.startswith(("syntax", "package", "import")):
            assert lines[number - 1].lstrip().startswith("//"), f"line {number + 1}: {line}"


def test_names_follow_bufs_standard_rules() -> None:
    assert pb.DESCRIPTOR.package == "skipvsr.v1"
    for service in pb.DESCRIPTOR.services_by_name.values():
        assert service.name.endswith("Service")
        for method in service.methods:
            assert method.input_type.name == f"{method.name}Request"
            assert method.output_type.name == f"{method.name}Response"
    for enum in pb.DESCRIPTOR.enum_types_by_name.values():
        _check_enum(enum)
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        assert re.fullmatch(r"([A-Z][a-z0-9]*)+", message.name)
        for field in message.fields:
            assert isinstance(field, FieldDescriptor)
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name)


def _check_enum(enum: EnumDescriptor) -> None:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
    assert enum.values[0].name == f"{prefix}_UNSPECIFIED"
    assert all(value.name.startswith(f"{prefix}_") for value in enum.values)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300_000])
def test_response_frames_serialise_like_protobuf(size: int) -> None:
    frame = pb.OutputFrame(sequence=2**63 - 1, pts=-5, skip_ratio=0.25, key_frame=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size,), dtype=np.uint8)
    written = serialize(FrameResponse(frame, pixels.data))
    frame.data = pixels.tobytes()
    assert pb.StreamResponse.FromString(written) == pb.StreamResponse(frame=frame)
    parsed = parse(written)
    assert isinstance(parsed, FrameResponse)
    assert parsed.data == frame.data
    frame.ClearField("data")
    assert parsed.frame == frame
    accepted = pb.StreamResponse(config=pb.StreamAccepted(output_width=7))
    assert serialize(accepted) == accepted.SerializeToString()
    assert parse(accepted.SerializeToString()) == accepted


@given(st.binary(max_size=60), st.integers(0, 80))
def test_responses_parse_like_protobuf(data: bytes, cut: int) -> None:
    """Fields in any order, and unknown fields of a newer server."""
    frame = pb.OutputFrame(sequence=300, data=data, model_milliseconds=1.5)
    odd = frame.SerializeToString() + bytes([0xA0, 0x06, 5]) + pb.OutputFrame(pts=7).SerializeToString()
    message = bytes([0x12, len(odd)]) + odd if len(odd) < 128 else serialize(FrameResponse(frame, data))
    read = parse(message)
    theirs = pb.StreamResponse.FromString(message).frame
    if isinstance(read, FrameResponse):
        read.frame.data = bytes(read.data)
        assert read.frame.SerializeToString() == theirs.SerializeToString()
    else:
        assert read.frame == theirs
    try:
        theirs_cut = pb.StreamResponse.FromString(message[:cut])
    except DecodeError:
        with pytest.raises(DecodeError):
            parse(message[:cut])
    else:
        assert cut >= len(message) or theirs_cut == pb.StreamResponse()


@pytest.mark.parametrize("size", [1, 127, 128, 300_000])
def test_request_frames_serialise_like_protobuf(size: int) -> None:
    frame = pb.InputFrame(sequence=2**63 - 1, pts=-5, end_of_stream=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size,), dtype=np.uint8)
    written = serialize_request(FrameRequest(frame, pixels.data))
    theirs = pb.StreamRequest(frame=pb.InputFrame(sequence=2**63 - 1, pts=-5, end_of_stream=True, data=bytes(pixels)))
    assert pb.StreamRequest.FromString(written) == theirs
    assert serialize_request(theirs) == theirs.SerializeToString()
    for message in (written, theirs.SerializeToString()):
        parsed = parse_request(message)
        assert isinstance(parsed, FrameRequest)
        assert isinstance(parsed.data, memoryview), "the data was copied"
        assert parsed.data == theirs.frame.data
        assert (parsed.frame.sequence, parsed.frame.pts, parsed.frame.end_of_stream) == (2**63 - 1, -5, True)


def test_other_requests_parse_like_protobuf() -> None:
    config = pb.StreamRequest(config=pb.StreamConfig(width=320, height=180))
    assert parse_request(config.SerializeToString()) == config
    assert parse_request(b"") == pb.StreamRequest()
    reset = parse_request(pb.StreamRequest(frame=pb.InputFrame(reset=True)).SerializeToString())
    assert isinstance(reset, FrameRequest)
    assert reset.frame.reset
    assert not reset.data
    twice = pb.StreamRequest(frame=pb.InputFrame(sequence=1, data=b"first"))
    last = pb.StreamRequest(frame=pb.InputFrame(sequence=2, data=b"last one"))
    merged = parse_request(twice.SerializeToString() + last.SerializeToString())
    assert isinstance(merged, FrameRequest)
    assert (merged.frame.sequence, bytes(merged.data)) == (2, b"last one")


@given(st.binary(max_size=60))
def test_arbitrary_bytes_parse_like_protobuf(message: bytes) -> None:
    try:
        theirs = pb.StreamRequest.FromString(message)
    except DecodeError:
        with pytest.raises(DecodeError):
            parse_request(message)
        return
    read = parse_request(message)
    if isinstance(read, FrameRequest):
        assert bytes(read.data) == theirs.frame.data
        assert read.frame.sequence == theirs.frame.sequence
    else:
        assert read == theirs
