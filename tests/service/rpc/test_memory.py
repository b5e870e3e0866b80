"""Memory of the gRPC server under attack: large messages in parallel, with and without the key."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr.v1 import upscaler_pb2_grpc
from tests.support.hostile import million_frames
from tests.support.processes import children
from tests.support.rpc_server import RpcServer, rpc_server

KEY = (("x-api-key", "s3cret"),)
JOBS = "/skipvsr.v1.JobService/"
CALLS = 16
MESSAGE = bytes(58 * 2**20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    """A server that takes larger messages than by default."""
    large = {"SKIPVSR_API_KEY": "s3cret", "SKIPVSR_GRPC_MAX_MESSAGE_BYTES": str(64 * 2**20)}
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url, **large) as running:
        yield running


def attack(server: RpcServer, method: str, metadata: tuple[tuple[str, str], ...], calls: int = CALLS) -> list[str]:
    """Send a message of 58 MiB with each of many parallel calls. Returns the statuses."""
    found: list[str] = []

    def call() -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(server.address, options) as channel:
            try:
                channel.unary_unary(method)(MESSAGE, metadata=metadata, timeout=60)
                found.append("OK")
            except grpc.RpcError as error:
                found.append(error.code().name)

    threads = [threading.Thread(target=call) for _ in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def peak(server: RpcServer) -> int:
    """Return the server's highest resident memory in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1000


@pytest.mark.parametrize(
    ("method", "metadata", "statuses", "growth"),
    [
        (JOBS + "GetJob", (), "UNAUTHENTICATED", 150),
        (JOBS + "WatchJob", (("x-api-key", "wrong"),), "UNAUTHENTICATED", 150),
        (JOBS + "CreateJob", (), "UNAUTHENTICATED", 150),
        ("/skipvsr.v1.UpscalerService/ListModels", (), "UNAUTHENTICATED", 150),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", (), "UNAUTHENTICATED", 150),
        ("/no.such/Method", (), "UNIMPLEMENTED", 150),
        ("/grpc.health.v1.Health/Check", (), "OK RESOURCE_EXHAUSTED", 450),
        (JOBS + "GetJob", KEY, "RESOURCE_EXHAUSTED", 450),
    ],
)
def test_parallel_large_messages_cost_no_memory(
    server: RpcServer, method: str, metadata: tuple[tuple[str, str], ...], statuses: str, growth: int
) -> None:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # resets the highest resident memory
    before = peak(server)
    assert set(attack(server, method, metadata)) <= set(statuses.split())
    grown = peak(server) - before
    print(f"{method} {statuses}: {before} MB, {grown} MB more")
    assert grown < growth


@pytest.mark.slow
def test_parallel_large_chunks_of_uploads_cost_little_memory(tmp_path: Path, redis_url: str) -> None:
    """Sixteen uploads at a time, with chunks as large as the server takes, and larger ones."""
    with rpc_server(tmp_path, redis_url, SKIPVSR_API_KEY="s3cret") as server:
        before = peak(server)
        assert set(uploads(server, bytes(58 * 2**20))) == {"RESOURCE_EXHAUSTED"}
        refused = peak(server) - before
        assert set(uploads(server, bytes(16 * 10**6))) == {"INVALID_ARGUMENT"}
        grown = peak(server) - before
    print(f"{before} MB; {refused} MB more for chunks of 58 MiB, {grown} MB more for chunks of 16 MB")
    assert refused < 100
    assert grown < 800  # three copies of sixteen chunks


def uploads(server: RpcServer, data: bytes) -> list[str]:
    """Upload a file of one chunk with each of many parallel calls. Returns the statuses."""
    statuses: list[str] = []

    def upload() -> None:
        parts = [
            pb.CreateJobRequest(config=pb.UploadConfig(filename="a.mp4")),
            pb.CreateJobRequest(chunk=pb.UploadChunk(data=data)),
        ]
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(server.address, options) as channel:
            try:
                upscaler_pb2_grpc.JobServiceStub(channel).CreateJob(iter(parts), metadata=KEY, timeout=60)
            except grpc.RpcError as error:
                statuses.append(error.code().name)

    threads = [threading.Thread(target=upload) for _ in range(CALLS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def test_health_answers_while_others_never_send_their_message(server: RpcServer) -> None:
    hold = threading.Event()

    def never() -> Iterator[bytes]:
        hold.wait()
        yield b""

    with grpc.insecure_channel(server.address) as channel:
        waiting = [channel.stream_unary("/grpc.health.v1.Health/Check").future(never()) for _ in range(40)]
        time.sleep(0.3)
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as other:
            for _ in range(3):
                answer = other.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60)
                assert answer == b"\x08\x01"  # SERVING
        hold.set()
        for call in waiting:
            call.cancel()


def test_calls_answer_while_others_never_send_their_message(server: RpcServer) -> None:
    hold = threading.Event()

    def never() -> Iterator[bytes]:
        hold.wait()
        yield b""

    with grpc.insecure_channel(server.address) as channel:
        for method in ("JobService/GetJob", "UpscalerService/Stream"):
            call = channel.stream_unary(f"/skipvsr.v1.{method}")
            waiting = [call.future(never(), metadata=KEY) for _ in range(6)]
            time.sleep(0.3)
            answer = channel.unary_unary("/skipvsr.v1.UpscalerService/ListModels")(b"", timeout=60, metadata=KEY)
            assert b"tiny" in answer
            for ended in waiting:
                ended.cancel()
        hold.set()


def test_uploads_share_four_probes(server: RpcServer, tmp_path: Path) -> None:
    million_frames(tmp_path / "bomb.mp4", 40_000_000)
    bomb = (tmp_path / "bomb.mp4").read_bytes()
    statuses: list[str] = []
    latencies: list[float] = []

    def upload(stub: upscaler_pb2_grpc.JobServiceStub) -> None:
        parts = [
            pb.CreateJobRequest(config=pb.UploadConfig(filename="bomb.mp4")),
            pb.CreateJobRequest(chunk=pb.UploadChunk(data=bomb)),
        ]
        try:
            stub.CreateJob(iter(parts), metadata=KEY, timeout=60)
            statuses.append("OK")
        except grpc.RpcError as error:
            statuses.append(error.code().name)

    with grpc.insecure_channel(server.address) as channel:
        stub = upscaler_pb2_grpc.JobServiceStub(channel)
        threads = [threading.Thread(target=upload, args=(stub,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        most = 0
        while any(thread.is_alive() for thread in threads):
            most = max(most, len(children(server.process.pid)))
            begun = time.monotonic()
            stub.ListJobs(pb.ListJobsRequest(), metadata=KEY, timeout=60)
            latencies.append(time.monotonic() - begun)
            time.sleep(0.02)
    print(f"{most} probes; ListJobs took up to {max(latencies):.3f} s")
    assert statuses == ["INVALID_ARGUMENT"] * 12
    assert 1 <= most <= 4
