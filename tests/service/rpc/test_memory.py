"""Memory of the gRPC server under attack: large messages in parallel, with and without the key."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from tests.support.rpc_server import RpcServer, rpc_server

KEY = (("x-api-key", "s3cret"),)
JOBS = "/skipvsr.v1.JobService/"
CALLS = 16
MESSAGE = bytes(58 * 2**20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url, SKIPVSR_API_KEY="s3cret") as running:
        yield running


def attack(server: RpcServer, method: str, metadata: tuple[tuple[str, str], ...], calls: int = CALLS) -> list[str]:
    """Send a message of 58 MiB with each of many parallel calls. Returns the statuses."""
    found: list[str] = []

    def call() -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(server.address, options) as channel:
            try:
                channel.unary_unary(method)(MESSAGE, metadata=metadata, timeout=30)
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
                answer = other.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)
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
            answer = channel.unary_unary("/skipvsr.v1.UpscalerService/ListModels")(b"", timeout=10, metadata=KEY)
            assert b"tiny" in answer
            for ended in waiting:
                ended.cancel()
        hold.set()
