"""Resuming interrupted streams, and user models whose weights change while streams run."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from commands.shared.embedded_redis import EmbeddedRedis
from model.engine.upscaler import Upscaler
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.zoo.weights_file import save_network
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr_client.live import StreamClient
from tests.support.rpc_server import Proxy, RpcServer, details, expected, noise, rpc_server, tiny


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RpcServer) -> Iterator[StreamClient]:
    with server.client() as connected:
        yield connected


@pytest.fixture(scope="module")
def model() -> Upscaler:
    return tiny()


RESUMED: dict[str, Any] = {"width": 32, "height": 24, "chunk": 2, "lookahead": 3, "routing": "off"}


def test_interrupted_stream_resumes_exactly(server: RpcServer, model: Upscaler) -> None:
    """A stream over two connections gives the same bits as a stream over one."""
    frames = noise(30)
    wanted = [rgb.tobytes() for rgb in expected(model, frames, chunk=2, lookahead=3)]
    with server.client() as first:
        token, before = interrupted(first, frames, last=9)
    with server.client() as second:
        after = resumed(second, token, frames, last_received=9)
        assert [frame.sequence for frame in after] == list(range(10, 30))
        assert [*before, *(frame.data for frame in after)] == wanted
        finished = pb.StreamConfig(**RESUMED, resume=pb.Resume(session_token=token))
        with pytest.raises(grpc.RpcError) as gone:
            list(second.upscaler.Stream(iter([pb.StreamRequest(config=finished)])))
    assert gone.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details(gone.value)["ErrorInfo"].reason == "SESSION_LOST"


def interrupted(client: StreamClient, frames: list[np.ndarray], *, last: int) -> tuple[str, list[bytes]]:
    """Stop after the answer with number `last`. Returns the session's token and the answers."""
    stream, answers = client.stream(frames, **RESUMED), []
    for answer in stream:
        answers.append(bytes(answer.data))
        if answer.sequence == last:
            break
    assert stream.accepted is not None
    return stream.accepted.session_token, answers


def resumed(client: StreamClient, token: str, frames: list[np.ndarray], *, last_received: int) -> list[pb.OutputFrame]:
    """Resume with the generated stub, and send the frames that the server asks for. Returns the new answers."""
    accepted: queue.Queue[int] = queue.Queue()

    def requests() -> Iterator[pb.StreamRequest]:
        resume = pb.Resume(session_token=token, last_received=last_received)
        yield pb.StreamRequest(config=pb.StreamConfig(**RESUMED, resume=resume))
        for index in range(accepted.get(timeout=60) + 1, len(frames)):
            last = index == len(frames) - 1
            yield pb.StreamRequest(
                frame=pb.InputFrame(sequence=index, data=frames[index].tobytes(), end_of_stream=last)
            )

    responses = client.upscaler.Stream(requests())
    accepted.put(next(responses).config.resume_after)
    *answers, last = responses
    assert last.summary.scenes == 1
    return [answer.frame for answer in answers]


def test_client_resumes_automatically(server: RpcServer, model: Upscaler) -> None:
    frames = noise(40, width=48, height=32)
    wanted = expected(model, frames, chunk=2, lookahead=2)
    proxy, cuts = Proxy(server.port), {9: threading.Event(), 24: threading.Event()}

    def source() -> Iterator[np.ndarray]:
        """Frames that wait for the next cut, so that no connection is cut after its last frame."""
        for index, frame in enumerate(frames):
            for after, cut in cuts.items():
                assert index < after + 10 or cut.wait(60)
            yield frame

    try:
        with StreamClient(proxy.address) as client:
            stream = client.stream(source(), width=48, height=32, chunk=2, lookahead=2, routing="off")
            got = []
            for answer in stream:
                got.append((answer.sequence, answer.data))
                if answer.sequence in cuts and not cuts[answer.sequence].is_set():
                    proxy.cut()
                    cuts[answer.sequence].set()
    finally:
        proxy.close()
    assert stream.resumptions == 2
    assert got == [(index, rgb.tobytes()) for index, rgb in enumerate(wanted)]
    assert stream.summary is not None
    assert stream.summary.frames == 40


def test_second_connection_ends_the_first(server: RpcServer) -> None:
    with server.client() as first, server.client() as second:
        hold = threading.Event()

        def requests() -> Iterator[pb.StreamRequest]:
            yield pb.StreamRequest(config=pb.StreamConfig(width=32, height=24))
            hold.wait(60)

        old = first.upscaler.Stream(requests())
        token = next(old).config.session_token
        config = pb.StreamConfig(width=32, height=24, resume=pb.Resume(session_token=token))
        answers = list(second.upscaler.Stream(iter([pb.StreamRequest(config=config)])))
        assert answers[-1].WhichOneof("message") == "summary"
        with pytest.raises(grpc.RpcError) as ended:
            list(old)
        assert ended.value.code() is grpc.StatusCode.ABORTED
        hold.set()


USER_MODEL: dict[str, Any] = {"width": 32, "height": 24, "model": "mine", "routing": "off"}


def put_user_model(server: RpcServer, seed: int) -> None:
    torch.manual_seed(seed)
    path = server.data_dir / "weights" / "mine.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(BasicVSR(NetworkConfig(8, 1, "light", "light", coupled=True)), path)


def test_new_weights_apply_to_new_streams(server: RpcServer, client: StreamClient) -> None:
    """Running streams keep the weights with which they started."""
    frames, answered = noise(3), threading.Event()

    def upscaled(given: Iterable[np.ndarray]) -> list[np.ndarray]:
        return [answer.rgb for answer in client.stream(given, **USER_MODEL)]

    def changing() -> Iterator[np.ndarray]:
        yield frames[0]
        assert answered.wait(60)
        put_user_model(server, 2)
        yield from frames[1:]

    put_user_model(server, 1)
    listed = {model.name: model.description for model in client.upscaler.ListModels(pb.ListModelsRequest()).models}
    assert listed["mine"] == "user model, 8 channels x 1 block"
    first = upscaled(frames)
    for answer, rgb in zip(client.stream(changing(), **USER_MODEL), first, strict=True):
        answered.set()
        assert np.array_equal(answer.rgb, rgb)
    assert not np.array_equal(upscaled(frames)[0], first[0])


def test_new_weights_end_resumption(server: RpcServer, client: StreamClient) -> None:
    data, hold = noise(1)[0].tobytes(), threading.Event()

    def interrupted_stream() -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(config=pb.StreamConfig(**USER_MODEL))
        yield pb.StreamRequest(frame=pb.InputFrame(data=data))
        hold.wait(60)

    put_user_model(server, 1)
    old = client.upscaler.Stream(interrupted_stream(), timeout=60)
    token = next(old).config.session_token
    assert next(old).frame.data
    put_user_model(server, 2)
    resume = pb.Resume(session_token=token, last_received=0)
    again = [
        pb.StreamRequest(config=pb.StreamConfig(**USER_MODEL, resume=resume)),
        pb.StreamRequest(frame=pb.InputFrame(sequence=1, data=data)),
    ]
    with pytest.raises(grpc.RpcError) as error:
        list(client.upscaler.Stream(iter(again), timeout=60))
    hold.set()
    assert details(error.value)["ErrorInfo"].reason == "STATE_MISMATCH"
