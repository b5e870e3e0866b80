"""Live streams over real sockets, with the server in its own process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from media.live.codecs import Coding, Format, decoder, encoder
from model.engine.loading import load_model
from model.engine.upscaler import Upscaler
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr_client import LimitReached
from skipvsr_client.live import StreamClient
from tests.support.processes import wait_until
from tests.support.rpc_server import RpcServer, expected, noise, rpc_server, tiny
from tests.support.user_models import TINY, write_model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url, SKIPVSR_GRPC_MAX_STREAMS="4") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RpcServer) -> Iterator[StreamClient]:
    with server.client() as connected:
        yield connected


@pytest.fixture(scope="module", params=["one core", "two cores"])
def any_client(
    request: pytest.FixtureRequest,
    client: StreamClient,
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: EmbeddedRedis,
) -> Iterator[StreamClient]:
    """Client of a server with one core, and of one with two cores, which computes chunks side by side."""
    if request.param == "one core":
        yield client
        return
    folder = tmp_path_factory.mktemp("rpc")
    with rpc_server(folder, redis_server.url, SKIPVSR_THREADS="2") as running, running.client() as connected:
        yield connected


@pytest.fixture(scope="module")
def model() -> Upscaler:
    return tiny()


@pytest.mark.parametrize(
    ("chunk", "lookahead", "routing"),
    [(1, 0, "off"), (1, 3, "off"), (4, 0, "off"), (3, 2, "off"), (5, 6, "off"), (30, 2, "off"), (3, 2, "balanced")],
)
def test_stream_equals_the_pipeline_bit_for_bit(
    any_client: StreamClient, model: Upscaler, chunk: int, lookahead: int, routing: str
) -> None:
    frames = noise(11)
    stream = any_client.stream(
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


@pytest.mark.parametrize("scale", [0, 2])
def test_a_model_for_two_doubles_frames(client: StreamClient, server: RpcServer, scale: int) -> None:
    folder = server.data_dir / "weights"
    write_model(folder, "double", config=replace(TINY, scale=2))
    double = load_model("double", weights_dir=folder, device="cpu", precision="fp32", threads=1)
    frames = noise(5, width=31, height=23)
    with client.stream(frames, width=31, height=23, model="double", scale=scale, lookahead=1, routing="off") as stream:
        answers = [answer.rgb for answer in stream]
    assert stream.accepted is not None
    assert (stream.accepted.output_width, stream.accepted.output_height) == (62, 46)
    assert stream.accepted.effective.scale == 2
    wanted = expected(double, frames, chunk=1, lookahead=1)
    assert all(np.array_equal(a, b) for a, b in zip(answers, wanted, strict=True))


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
    with closing(decoder(small)) as back:
        sources = [item.rgb for index, piece in enumerate(data) for item in back.decode(piece, index)]
        sources += [item.rgb for item in back.flush()]
    coder = encoder(Coding(format_, 128, 96, crf=10, **colors))  # type: ignore[arg-type]
    wanted = [coder.encode(rgb, key=index == 0) for index, rgb in enumerate(expected(model, sources))]
    assert [answer.data for answer in answers] == [item.data for item in wanted]
    assert bool(stream.accepted and stream.accepted.session_token) is not format_.is_video


def test_reset_and_half_close(any_client: StreamClient, model: Upscaler) -> None:
    """A reset flushes the look-ahead and resets the state. A half-close ends the stream without `end_of_stream`."""
    frames = noise(9)

    def requests() -> Iterator[pb.StreamRequest]:
        yield pb.StreamRequest(config=pb.StreamConfig(width=32, height=24, lookahead=2, chunk=2, routing="off"))
        for index, frame in enumerate(frames):
            message = pb.InputFrame(sequence=10 * index, pts=index, data=frame.tobytes(), reset=index == 5)
            yield pb.StreamRequest(frame=message)

    responses = list(any_client.upscaler.Stream(requests()))
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
            assert answered.acquire(timeout=60), "the previous frame has no answer"
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
    assert [outcomes.get(timeout=60) for _ in sizes] == [True] * 4


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

    wait_until(is_blocked, 60, "the server reads without limit")
    with server.client() as other:
        assert len(list(other.stream(noise(30), width=32, height=24))) == 30
    over.set()
    call.cancel()


def test_stream_limit(server: RpcServer) -> None:
    with server.client() as client:
        hold = threading.Event()

        def requests() -> Iterator[pb.StreamRequest]:
            yield pb.StreamRequest(config=pb.StreamConfig(width=32, height=24))
            hold.wait(60)

        calls = [client.upscaler.Stream(requests()) for _ in range(4)]
        for call in calls:
            next(call)
        with pytest.raises(LimitReached) as refused:
            list(client.stream(noise(1), width=32, height=24))
        assert (refused.value.title, refused.value.kind) == ("RESOURCE_EXHAUSTED", "too-many-streams")
        assert refused.value.retry_after is not None
        assert refused.value.retry_after > 0
        hold.set()
        for call in calls:
            call.cancel()

        def admitted() -> bool:
            try:
                return len(list(client.stream(noise(1), width=32, height=24))) == 1
            except LimitReached:
                return False

        wait_until(admitted, 60, "a cancelled stream still counts")


def test_list_models(client: StreamClient) -> None:
    answer = client.upscaler.ListModels(pb.ListModelsRequest())
    assert answer.default_model == "tiny"
    assert "tiny" in [model.name for model in answer.models]


@pytest.mark.slow
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
    wait_until(lambda: server.files() <= before + 1, 60, f"{server.files()} descriptors, {before} before")
