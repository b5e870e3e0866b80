"""Live streams over real sockets, with the server in its own process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from commands.shared.embedded_redis import EmbeddedRedis
from media.live.codecs import Coding, Format, decoder, encoder
from model.engine.upscaler import Upscaler
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.zoo.models import save_network
from service.rpc.client import StreamClient
from skipvsr.v1 import upscaler_pb2 as pb
from tests.support.processes import wait_until
from tests.support.rpc_server import Proxy, RpcServer, details, expected, noise, rpc_server, tiny


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url, SKIPVSR_GRPC_MAX_STREAMS="4") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RpcServer) -> Iterator[StreamClient]:
    with server.client() as connected:
        yield connected


@pytest.fixture(scope="module")
def model() -> Upscaler:
    return tiny()


@pytest.mark.parametrize(
    ("chunk", "lookahead", "routing"),
    [(1, 0, "off"), (1, 3, "off"), (4, 0, "off"), (3, 2, "off"), (5, 6, "off"), (30, 2, "off"), (3, 2, "balanced")],
)
def test_stream_equals_the_pipeline_bit_for_bit(
    client: StreamClient, model: Upscaler, chunk: int, lookahead: int, routing: str
) -> None:
    frames = noise(11)
    stream = client.stream(
        [(100 + 7 * index, frame) for index, frame in enumerate(frames)],
        width=32,
        height=24,
        chunk=chunk,
        lookahead=lookahead,
        routing=routing,
    )
    answers = list(stream)
    wanted = expected(model, frames, chunk=chunk, lookahead=lookahead, routing=routing)
    assert [answer.sequence for answer in answers] == list(range(11))
    assert [answer.pts for answer in answers] == [100 + 7 * index for index in range(11)]
    for answer, rgb in zip(answers, wanted, strict=True):
        assert answer.rgb is not None
        np.testing.assert_array_equal(answer.rgb, rgb)
    assert stream.accepted is not None
    assert stream.summary is not None
    assert (stream.accepted.output_width, stream.accepted.output_height) == (128, 96)
    assert stream.accepted.latency_frames == chunk - 1 + lookahead
    assert stream.accepted.effective.model == "tiny"
    assert stream.summary.frames == 11
    assert 0 < stream.summary.latency_p50_milliseconds <= stream.summary.latency_p99_milliseconds


@pytest.mark.parametrize("format_", [Format.YUV420P, Format.NV12, Format.JPEG, Format.PNG, Format.H264, Format.HEVC])
def test_every_format_in_and_out(client: StreamClient, model: Upscaler, format_: Format) -> None:
    """The server's codecs give the same bytes as local codecs."""
    y, x = np.mgrid[0:24, 0:32]
    frames = [
        np.stack([100 + 3 * x + 2 * i, 40 + 5 * y, 200 - 2 * x - y], -1).clip(0, 255).astype(np.uint8) for i in range(6)
    ]
    number = getattr(pb, f"FRAME_FORMAT_{format_.name}")
    has_matrix = format_.has_matrix
    colors = {"matrix": 6, "range": 2} if has_matrix else {}
    small = Coding(format_, 32, 24, **colors)  # type: ignore[arg-type]
    coder = encoder(small)
    data = [coder.encode(frame, key=index == 0).data for index, frame in enumerate(frames)]
    matrix = {"matrix": pb.COLOR_MATRIX_BT601, "range": pb.COLOR_RANGE_FULL} if has_matrix else {}
    stream = client.stream(
        data,
        width=32,
        height=24,
        routing="off",
        input=pb.InputFormat(format=number, **matrix),
        output=pb.OutputFormat(format=number, crf=10, **matrix),
    )
    answers = list(stream)
    assert [answer.sequence for answer in answers] == list(range(6))
    assert answers[0].key_frame
    back = decoder(small)
    sources = [item.rgb for index, piece in enumerate(data) for item in back.decode(piece, index)]
    sources += [item.rgb for item in back.flush()]
    coder = encoder(Coding(format_, 128, 96, crf=10, **colors))  # type: ignore[arg-type]
    wanted = [coder.encode(rgb, key=index == 0) for index, rgb in enumerate(expected(model, sources))]
    assert [answer.data for answer in answers] == [item.data for item in wanted]
    assert bool(stream.accepted and stream.accepted.session_token) is not format_.is_video


def test_reset_and_half_close(client: StreamClient, model: Upscaler) -> None:
    """A reset flushes the look-ahead and resets the state. A half-close ends the stream without `end_of_stream`."""
    frames = noise(9)

    def requests() -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(config=pb.StreamConfig(width=32, height=24, lookahead=2, chunk=2, routing="off"))
        for index, frame in enumerate(frames):
            message = pb.InputFrame(sequence=10 * index, pts=index, data=frame.tobytes(), reset=index == 5)
            yield pb.StreamRequest(frame=message)

    responses = list(client.upscaler.Stream(requests()))
    answers = [response.frame for response in responses[1:-1]]
    assert [answer.sequence for answer in answers] == [10 * index for index in range(9)]
    assert [answer.scene_start for answer in answers] == [index in (0, 5) for index in range(9)]
    assert responses[-1].summary.scenes == 2
    wanted = expected(model, frames[:5], chunk=2, lookahead=2)
    for answer, rgb in zip(answers[:5], wanted, strict=True):
        assert answer.data == rgb.tobytes()


def test_live_source_gets_each_answer_before_its_next_frame(client: StreamClient, model: Upscaler) -> None:
    """Without chunk and look-ahead, the client needs no further frame from the source."""
    frames, answered = noise(4), threading.Semaphore(1)

    def live() -> Iterator[np.ndarray]:
        for frame in frames:
            assert answered.acquire(timeout=10), "the previous frame has no answer"
            yield frame

    got = []
    for answer in client.stream(live(), width=32, height=24, routing="off"):
        got.append(bytes(answer.data))
        answered.release()
    assert got == [rgb.tobytes() for rgb in expected(model, frames)]


def test_streams_of_different_sizes_do_not_mix(client: StreamClient, model: Upscaler) -> None:
    sizes = [(32, 24), (40, 16), (24, 48), (64, 32)]
    outcomes: queue.Queue[bool | BaseException] = queue.Queue()

    def run(seed: int, width: int, height: int) -> None:
        try:
            frames = noise(20, width=width, height=height, seed=seed)
            stream = client.stream(frames, width=width, height=height, lookahead=seed % 2, routing="off")
            wanted = expected(model, frames, lookahead=seed % 2)
            pairs = zip(stream, wanted, strict=True)
            outcomes.put(all(answer.data == rgb.tobytes() for answer, rgb in pairs))
        except BaseException as error:
            outcomes.put(error)

    threads = [threading.Thread(target=run, args=(seed, *size)) for seed, size in enumerate(sizes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [outcomes.get(timeout=1) for _ in sizes] == [True] * 4


def test_slow_client_blocks_only_itself(client: StreamClient, server: RpcServer) -> None:
    """A client that reads no answers is blocked by backpressure. Other streams continue."""
    sent = 0
    over = threading.Event()

    def endless() -> Iterator[pb.StreamRequest]:
        nonlocal sent
        yield pb.StreamRequest(config=pb.StreamConfig(width=160, height=120, routing="off"))
        data = noise(1, width=160, height=120)[0].tobytes()
        while not over.is_set():
            yield pb.StreamRequest(frame=pb.InputFrame(sequence=sent, data=data))
            sent += 1

    call = client.upscaler.Stream(endless())
    next(call)
    before = -1

    def is_blocked() -> bool:
        nonlocal before
        if sent == before and sent > 8:
            return True
        before = sent
        threading.Event().wait(1.0)
        return False

    wait_until(is_blocked, 30, "the server reads without limit")
    with server.client() as other:
        assert len(list(other.stream(noise(30), width=32, height=24))) == 30
    over.set()
    call.cancel()


def test_stream_limit(server: RpcServer) -> None:
    with server.client() as client:
        hold = threading.Event()

        def requests() -> Iterator[pb.StreamRequest]:
            yield pb.StreamRequest(config=pb.StreamConfig(width=32, height=24))
            hold.wait(30)

        calls = [client.upscaler.Stream(requests()) for _ in range(4)]
        for call in calls:
            next(call)
        with pytest.raises(grpc.RpcError) as refused:
            list(client.stream(noise(1), width=32, height=24))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details(refused.value)["RetryInfo"].retry_delay.seconds > 0
        assert details(refused.value)["ErrorInfo"].reason == "TOO_MANY_STREAMS"
        hold.set()
        for call in calls:
            call.cancel()

        def admitted() -> bool:
            try:
                return len(list(client.stream(noise(1), width=32, height=24))) == 1
            except grpc.RpcError:
                return False

        wait_until(admitted, 10, "a cancelled stream still counts")


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
        for index in range(accepted.get(timeout=10) + 1, len(frames)):
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
    frames = noise(60, width=48, height=32)
    wanted = expected(model, frames, chunk=2, lookahead=2)
    proxy = Proxy(server.port)
    try:
        with StreamClient(proxy.address) as client:
            stream = client.stream(frames, width=48, height=32, chunk=2, lookahead=2, routing="off")
            got = []
            for answer in stream:
                got.append((answer.sequence, answer.data))
                if answer.sequence in (9, 30):
                    proxy.cut()
    finally:
        proxy.close()
    assert stream.resumptions == 2
    assert got == [(index, rgb.tobytes()) for index, rgb in enumerate(wanted)]
    assert stream.summary is not None
    assert stream.summary.frames == 60


def test_second_connection_ends_the_first(server: RpcServer) -> None:
    with server.client() as first, server.client() as second:
        hold = threading.Event()

        def requests() -> Iterator[pb.StreamRequest]:
            yield pb.StreamRequest(config=pb.StreamConfig(width=32, height=24))
            hold.wait(30)

        old = first.upscaler.Stream(requests())
        token = next(old).config.session_token
        config = pb.StreamConfig(width=32, height=24, resume=pb.Resume(session_token=token))
        answers = list(second.upscaler.Stream(iter([pb.StreamRequest(config=config)])))
        assert answers[-1].WhichOneof("message") == "summary"
        with pytest.raises(grpc.RpcError) as ended:
            list(old)
        assert ended.value.code() is grpc.StatusCode.ABORTED
        hold.set()


def test_list_models(client: StreamClient) -> None:
    answer = client.upscaler.ListModels(pb.ListModelsRequest())
    assert answer.default_model == "tiny"
    assert "tiny" in [model.name for model in answer.models]


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
        assert answered.wait(10)
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
        hold.wait(30)

    put_user_model(server, 1)
    old = client.upscaler.Stream(interrupted_stream(), timeout=20)
    token = next(old).config.session_token
    assert next(old).frame.data
    put_user_model(server, 2)
    resume = pb.Resume(session_token=token, last_received=0)
    again = [
        pb.StreamRequest(config=pb.StreamConfig(**USER_MODEL, resume=resume)),
        pb.StreamRequest(frame=pb.InputFrame(sequence=1, data=data)),
    ]
    with pytest.raises(grpc.RpcError) as error:
        list(client.upscaler.Stream(iter(again), timeout=20))
    hold.set()
    assert details(error.value)["ErrorInfo"].reason == "STATE_MISMATCH"


def test_memory_stays_flat_over_many_frames(server: RpcServer, client: StreamClient) -> None:
    frame = noise(1, width=8, height=8)[0]

    def run(count: int) -> None:
        stream = client.stream((frame for _ in range(count)), width=8, height=8, routing="off")
        assert sum(1 for _ in stream) == count

    run(300)
    before = server.memory()
    run(2000)
    assert server.memory() - before < 16 * 1024**2


@pytest.mark.slow
def test_a_hundred_thousand_frames(server: RpcServer, client: StreamClient) -> None:
    frame = noise(1, width=8, height=8)[0]
    stream = client.stream((frame for _ in range(100_000)), width=8, height=8, routing="off", chunk=16)
    sizes = [server.memory() for answer in stream if answer.sequence % 10_000 == 9_999]
    assert stream.summary is not None
    assert stream.summary.frames == 100_000
    assert sizes[-1] - sizes[1] < 16 * 1024**2


def test_descriptors_are_released(server: RpcServer, tmp_path: Path) -> None:
    """The server closes the descriptors of disconnected clients."""
    before = server.files()
    for _ in range(5):
        with server.client() as client:
            for _answer in client.stream(noise(50), width=32, height=24):
                break
    wait_until(lambda: server.files() <= before + 1, 15, f"{server.files()} descriptors, {before} before")
