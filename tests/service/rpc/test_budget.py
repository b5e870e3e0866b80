"""Memory of live streams: chunk and look-ahead of one stream and of all together are bounded by the memory there is."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import grpc
import numpy as np
import pytest
import torch

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.settings import Settings
from model.engine.budget import available_bytes, needed_bytes
from model.engine.state import RecurrentState
from service.rpc.errors import StatusError
from service.rpc.inference import largest_batch
from service.rpc.session import Session, Snapshot
from service.rpc.session_registry import SessionRegistry
from service.rpc.stream_config import StreamConfig, resolve
from service.rpc.stream_memory import StreamCost, total
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr_client.live import StreamClient
from tests.support.processes import wait_until
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


# All streams together


def stream_cost(chunk: int, lookahead: int = 0) -> StreamCost:
    """The estimate of the server, with two frames in flight beyond the chunk."""
    message = pb.StreamConfig(width=64, height=48, chunk=chunk, lookahead=lookahead)
    config = resolve(message, Settings(), "tiny", tiny().scale)
    return StreamCost.of(tiny(), config, in_flight=config.max_in_flight(2), batch=1)


TWO_AND_A_HALF = total([stream_cost(16), stream_cost(16), stream_cost(4)])


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    """A server with memory for two streams with chunks of 16 frames, and one of 4."""
    settings = {
        "SKIPVSR_GRPC_MEMORY_BYTES": str(TWO_AND_A_HALF),
        "SKIPVSR_GRPC_IN_FLIGHT": "2",
        "SKIPVSR_GRPC_BATCH": "1",
        "SKIPVSR_GRPC_IDLE_SECONDS": "5",
        "SKIPVSR_GRPC_SESSION_SECONDS": "1",
    }
    with rpc_server(tmp_path_factory.mktemp("crowded"), redis_server.url, **settings) as running:
        yield running


class Open:
    """A stream that stays open until its `end`, with its accepted config."""

    def __init__(self, client: StreamClient, **config: object) -> None:
        self._over, self._last = threading.Event(), b""
        self.call = client.upscaler.Stream(self._requests(**config), timeout=60)
        self.accepted = next(self.call).config

    def _requests(self, **config: object) -> Iterator[pb.StreamRequest]:
        yield from requests([], **config)
        self._over.wait(60)
        if self._last:
            yield pb.StreamRequest(frame=pb.InputFrame(sequence=1, data=self._last))

    @property
    def chunk(self) -> int:
        return self.accepted.effective.chunk

    def end(self, last: bytes = b"") -> None:
        """End the stream, after a frame with these bytes if any, and wait until the server has ended the call."""
        self._last = last
        self._over.set()
        list(self.call)


def test_streams_share_the_memory(crowded: RpcServer) -> None:
    with crowded.client() as client:
        first, second = both(client)
        third = Open(client, chunk=16)
        assert (first.chunk, second.chunk, third.chunk) == (16, 16, 4)
        with pytest.raises(grpc.RpcError) as error:
            Open(client, chunk=16)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "SKIPVSR_GRPC_MEMORY_BYTES" in error.value.details()
        found = details(error.value)
        assert found["ErrorInfo"].reason == "OUT_OF_MEMORY"
        assert found["RetryInfo"].retry_delay.seconds == 5
        first.end()
        fourth = Open(client, chunk=16)
        assert fourth.chunk == 16
        for stream in (second, third, fourth):
            stream.call.cancel()


@pytest.mark.parametrize("way", ["end", "cancel", "error", "timeout", "lost connection"])
def test_each_end_of_a_stream_gives_its_memory_back(crowded: RpcServer, way: str) -> None:
    for _ in range(1 if way == "timeout" else 3):
        client = crowded.client()
        for stream in both(client):
            if way == "end":
                stream.end()
            elif way == "cancel":
                stream.call.cancel()
            elif way in ("error", "timeout"):  # a frame of another size, or no frame in time
                with pytest.raises(grpc.RpcError):
                    stream.end(b"x") if way == "error" else list(stream.call)
        client.close()
    with crowded.client() as client:
        for stream in both(client):
            stream.call.cancel()


def both(client: StreamClient) -> list[Open]:
    """Two streams with chunks of 16 frames, as soon as the server has given back what earlier streams took."""
    streams: list[Open] = []

    def opened() -> bool:
        for stream in streams:
            stream.call.cancel()
        streams.clear()
        with suppress(grpc.RpcError):
            streams.extend(Open(client, chunk=16) for _ in range(2))
        return [stream.chunk for stream in streams] == [16, 16]

    wait_until(opened, 60, "the memory is still taken")
    return streams


def test_disconnected_streams_make_room_and_resume_if_there_is_room() -> None:
    config = resolve(pb.StreamConfig(width=64, height=48), Settings(), "tiny", tiny().scale)

    def parked(registry: SessionRegistry) -> Session:
        session = registry.open(config, lambda _: StreamCost(40))
        session.remember(Snapshot(RecurrentState("tiny", torch.zeros(1, 1, 10, 3, dtype=torch.uint8))))  # 30 bytes
        registry.release(session, finished=False)
        return session

    async def run() -> None:
        registry = SessionRegistry(most=8, memory=100, ttl_seconds=60, drain_seconds=1)
        registry.open(config, lambda _: StreamCost(40))
        first, second = parked(registry), parked(registry)  # the second makes the first give way
        with pytest.raises(StatusError, match="unknown"):
            await registry.resume(config, first.token)
        third = registry.open(config, lambda _: StreamCost(30))
        with pytest.raises(StatusError, match="SKIPVSR_GRPC_MEMORY_BYTES"):
            await registry.resume(config, second.token)
        registry.release(third, finished=True)
        assert await registry.resume(config, second.token) is second
        with pytest.raises(StatusError, match="2 other streams are open"):
            registry.open(config, lambda _: StreamCost(30))

    asyncio.run(run())


def test_memory_decides_about_chunks_ahead_before_it_shortens_a_chunk() -> None:
    """A stream has room for the frames of two chunks, of one, or of a shorter one. The networks get what is left."""

    def cost(config: StreamConfig) -> StreamCost:
        return StreamCost(config.max_in_flight(0), computing=5)

    message = pb.StreamConfig(width=64, height=48, chunk=4, lookahead=1)
    config = replace(resolve(message, Settings(), "tiny", tiny().scale), ahead=1)
    assert config.max_in_flight(2) == 4 + 4 + 1 + 2

    async def opened(memory: int) -> tuple[int, int]:
        registry = SessionRegistry(most=8, memory=memory, ttl_seconds=60, drain_seconds=1)
        session = registry.open(config, cost)
        assert registry.room == memory - session.cost.held
        registry.release(session, finished=True)
        assert registry.room == memory
        return session.config.chunk, session.config.ahead

    assert [asyncio.run(opened(memory)) for memory in (14, 13, 9)] == [(4, 1), (4, 0), (3, 0)]


def test_states_of_disconnected_streams_leave_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states come back bit for bit. Main memory has a limit of its own, and the metrics show both."""
    monkeypatch.setattr("model.engine.one_thread._is_gpu", lambda device: device.type == "cuda")
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    config = resolve(pb.StreamConfig(width=64, height=48), Settings(), "tiny", tiny().scale)
    numbers, moved = torch.arange(30, dtype=torch.uint8).reshape(1, 1, 10, 3), []
    state_to = RecurrentState.to

    def to(self: RecurrentState, device: torch.device | str) -> RecurrentState:
        moved.append((str(device), threading.current_thread().name))
        return state_to(self, device)

    monkeypatch.setattr(RecurrentState, "to", to)

    def metric(registry: SessionRegistry, name: str, **labels: str) -> float | None:
        return registry.metrics.registry.get_sample_value(f"skipvsr_{name}", labels)

    async def settled(registry: SessionRegistry) -> None:
        while registry._moves:
            await asyncio.gather(*registry._moves)

    async def run() -> None:
        registry = SessionRegistry(
            most=8, memory=100, ttl_seconds=60, drain_seconds=1, device=torch.device("cuda"), host_memory=70
        )
        sessions = []
        for _ in range(3):
            sessions.append(registry.open(config, lambda _: StreamCost(90)))
            sessions[-1].remember(Snapshot(RecurrentState("tiny", numbers.clone())))
            registry.release(sessions[-1], finished=False)
            await settled(registry)
        assert moved == [("cpu", "gpu_0")] * 3, "copied by the thread that computes"
        assert [session.on_host for session in sessions] == [True] * 3
        assert metric(registry, "parked_streams") == 2, "two states of 30 bytes fit into 70"
        assert metric(registry, "parked_host_bytes") == 60
        assert metric(registry, "states_moved_total", to="host") == 3
        with pytest.raises(StatusError, match="unknown"):
            await registry.resume(config, sessions[0].token)
        back = await registry.resume(config, sessions[2].token)
        state = back.rewind(None if back.snapshots[-1].answered is None else 0).state
        assert state is not None
        assert torch.equal(state.pending, numbers)
        assert metric(registry, "states_moved_total", to="device") == 1
        registry.release(back, finished=False)
        again = registry.resume(config, back.token)  # before the copy is done
        assert await again is back
        await settled(registry)
        assert not back.on_host
        registry.release(back, finished=False)
        await asyncio.sleep(0)  # the copy begins
        back = await registry.resume(config, back.token)
        back.snapshots[-1] = Snapshot(RecurrentState("tiny", numbers + 1))  # answers, then the connection is lost again
        registry.release(back, finished=False)
        await settled(registry)
        assert back.on_host

    asyncio.run(run())


def test_a_batch_on_a_gpu_fits_into_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve(pb.StreamConfig(width=64, height=48), Settings(), "tiny", tiny().scale)
    monkeypatch.setattr("service.rpc.inference.usable_bytes", lambda device: 10**7)
    model = tiny()
    one = needed_bytes(model, 64 * 48, config.chunk + config.lookahead)
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    assert largest_batch(model, config, 0) == 10**7 // one > 1
    assert largest_batch(model, config, 2) == 2
    assert largest_batch(model, config, 10**6) == 10**7 // one
    assert largest_batch(model, replace(config, chunk=64, lookahead=10**6), 0) == 1


def test_memory_that_torch_keeps_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2000)
    assert available_bytes(torch.device("cuda")) == 4000


def test_the_network_computes_one_batch_at_a_time() -> None:
    assert total([StreamCost(1, 10), StreamCost(2, 20), StreamCost(3, 5)]) == 6 + 20
    assert total([StreamCost(1, 10, 2), StreamCost(2, 10, 2), StreamCost(3, 5)]) == 6 + 20
    assert total([StreamCost(1, 10, sys.maxsize), StreamCost(2, 20, sys.maxsize)]) == 3 + 30
    assert total([]) == 0
