"""Memory of live streams: chunk and look-ahead are bounded by the memory there is."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from model.engine.budget import needed_bytes
from skipvsr.v1 import upscaler_pb2 as pb
from tests.support.rpc_server import RpcServer, details, expected, noise, rpc_server, tiny

PIXELS = 64 * 48


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    budget = needed_bytes(tiny(), PIXELS, 8)  # a chunk of 6 frames, and 2 frames of look-ahead
    settings = {"SKIPVSR_MAX_MODEL_BYTES": str(budget)}
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url, **settings) as running:
        yield running


def requests(frames: list[np.ndarray], **config: object) -> Iterator[pb.StreamRequest]:
    fields = {"width": 64, "height": 48, "routing": "off", **config}
    yield pb.StreamRequest(config=pb.StreamConfig(**fields))  # type: ignore[arg-type]
    for number, frame in enumerate(frames, 1):
        last = number == len(frames)
        yield pb.StreamRequest(frame=pb.InputFrame(sequence=number, data=frame.tobytes(), end_of_stream=last))


def test_a_long_chunk_is_shortened(server: RpcServer) -> None:
    frames = noise(15, width=64, height=48)
    with server.client() as client:
        first, *answers, _ = client.upscaler.Stream(requests(frames, chunk=64, lookahead=2), timeout=60)
        effective = first.config.effective
        assert (effective.chunk, effective.lookahead) == (6, 2)
        assert first.config.latency_frames == 7
        wanted = expected(tiny(), frames, chunk=6, lookahead=2)
        assert [answer.frame.data for answer in answers] == [frame.tobytes() for frame in wanted]


def test_a_shortened_stream_resumes(server: RpcServer) -> None:
    frames = noise(15, width=64, height=48)
    with server.client() as client:
        call = client.upscaler.Stream(requests(frames[:12], chunk=64, lookahead=2), timeout=60)
        accepted = next(call).config
        assert next(call).frame.sequence == 1
        call.cancel()
        resume = pb.Resume(session_token=accepted.session_token)
        again, *_ = client.upscaler.Stream(requests(frames, chunk=64, lookahead=2, resume=resume), timeout=60)
        assert again.config.effective.chunk == 6


def test_too_much_lookahead_is_refused_with_numbers(server: RpcServer) -> None:
    with server.client() as client, pytest.raises(grpc.RpcError) as error:
        list(client.upscaler.Stream(requests([], chunk=1, lookahead=64), timeout=60))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "64x48 with a look-ahead of 64 needs about" in error.value.details()
    assert "SKIPVSR_MAX_MODEL_BYTES" in error.value.details()
    assert details(error.value)["ErrorInfo"].reason == "OUT_OF_MEMORY"
