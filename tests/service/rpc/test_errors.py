"""Status codes for misbehaving clients; health, reflection, API keys, TLS, shutdown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from commands.shared.embedded_redis import EmbeddedRedis
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr_client import ConnectionFailed, Unauthorized
from skipvsr_client.live import StreamClient
from tests.support.certificates import Authority
from tests.support.processes import wait_until
from tests.support.rpc_server import ROOT, Proxy, RpcServer, details, noise, rpc_server

INVALID = grpc.StatusCode.INVALID_ARGUMENT
FRAME = noise(1)[0].tobytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    settings = {"SKIPVSR_GRPC_IDLE_SECONDS": "4", "SKIPVSR_GRPC_MAX_MESSAGE_BYTES": "100000"}
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url, **settings) as running:
        yield running


def config(**fields: object) -> pb.StreamRequest:
    return pb.StreamRequest(config=pb.StreamConfig(**{"width": 32, "height": 24, **fields}))  # type: ignore[arg-type]


def frame(**fields: object) -> pb.StreamRequest:
    return pb.StreamRequest(frame=pb.InputFrame(**{"data": FRAME, **fields}))  # type: ignore[arg-type]


def failure(server: RpcServer, *requests: pb.StreamRequest, timeout: float | None = 60) -> grpc.RpcError:
    with server.client() as client, pytest.raises(grpc.RpcError) as error:
        list(client.upscaler.Stream(iter(requests), timeout=timeout))
    return error.value


@pytest.mark.parametrize(
    ("requests", "field", "words"),
    [
        ([], "message", "before its config"),
        ([frame()], "message", "first message must be the config"),
        ([config(), config()], "message", "every message after the config must be a frame"),
        ([config(width=0, height=0)], "config.width", "0x0"),
        ([config(height=7)], "config.height", "too small"),
        ([config(width=100_000, height=100_000)], "config.width", "SKIPVSR_MAX_PIXELS"),
        ([config(width=2**32 - 1, height=2**32 - 1)], "config.width", "SKIPVSR_MAX_PIXELS"),
        ([config(routing="warp")], "config.routing", "off, balanced, fast"),
        ([config(lookahead=65)], "config.lookahead", "between 0 and 64"),
        ([config(scale=2)], "config.scale", "tiny enlarges by 4, not by 2"),
        ([config(scale=3)], "config.scale", "not by 3"),
        ([config(chunk=1000)], "config.chunk", "between 1 and 64"),
        ([config(input=pb.InputFormat(format=99))], "config.input.format", "99"),  # type: ignore[arg-type]
        ([config(), frame(data=FRAME[:-1])], "frame.data", "2,303 bytes; 32x24 RGB24 has 2,304"),
        ([config(), frame(data=FRAME + FRAME)], "frame.data", "4,608 bytes"),
        ([config(), frame(data=b"")], "frame.data", "no data"),
        ([config(), frame(sequence=5), frame(sequence=5)], "frame.sequence", "5 is not above 5"),
        ([config(), frame(sequence=5), frame(sequence=4)], "frame.sequence", "4 is not above 5"),
        ([config(), frame(sequence=2**63)], "frame.sequence", "above"),
        ([config(input=pb.InputFormat(format="FRAME_FORMAT_JPEG")), frame()], "frame.data", "no JPEG picture"),
        ([config(input=pb.InputFormat(format="FRAME_FORMAT_H264")), frame()], "frame.data", "no H264 access unit"),
    ],
)
def test_invalid_requests_name_their_field(
    server: RpcServer, requests: list[pb.StreamRequest], field: str, words: str
) -> None:
    error = failure(server, *requests)
    assert error.code() is INVALID
    assert words in error.details()
    assert "\n" not in error.details()
    found = details(error)
    assert found["BadRequest"].field_violations[0].field == field
    assert found["ErrorInfo"].domain == "skipvsr"


def test_unknown_and_missing_models(server: RpcServer) -> None:
    error = failure(server, config(model="no-such"))
    assert error.code() is INVALID
    assert "use one of:" in error.details()
    error = failure(server, config(model="basicvsr-reds"))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "skipvsr models --fetch" in error.details()


def test_damaged_weights(server: RpcServer) -> None:
    weights = server.data_dir / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    (weights / "bad.safetensors").write_bytes(b"half a download")
    error = failure(server, config(model="bad"))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "bad.safetensors: not a safetensors file" in error.details()
    assert details(error)["ErrorInfo"].reason == "BAD_WEIGHTS"


def test_oversized_message_states_the_limit(server: RpcServer) -> None:
    error = failure(server, config(), frame(data=bytes(200_000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "165536" in error.details()


def test_bytes_that_are_no_protobuf(server: RpcServer) -> None:
    with server.client() as client:
        call = client._channel.stream_stream("/skipvsr.v1.UpscalerService/Stream")
        with pytest.raises(grpc.RpcError) as error:
            list(call(iter([b"\xff\xff\xff\xff"]), timeout=60))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_idle_stream_ends(server: RpcServer) -> None:
    over = threading.Event()

    def silent() -> Iterator[pb.StreamRequest]:
        yield config()
        over.wait(60)

    with server.client() as client, pytest.raises(grpc.RpcError) as error:
        list(client.upscaler.Stream(silent(), timeout=60))
    over.set()
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "SKIPVSR_GRPC_IDLE_SECONDS" in error.value.details()


def test_deadline_ends_the_stream(server: RpcServer) -> None:
    def endless() -> Iterator[pb.StreamRequest]:
        yield config()
        for number in range(10**9):
            yield frame(sequence=number)

    with server.client() as client, pytest.raises(grpc.RpcError) as error:
        for _ in client.upscaler.Stream(endless(), timeout=0.5):
            pass
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert serves(server)


def test_garbage_on_the_socket(server: RpcServer) -> None:
    for data in (
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(1000),
        os.urandom(5000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 99,
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(data)
            connection.settimeout(60)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionError:
                pass
    assert serves(server)


def test_bursts_of_pings_are_allowed(server: RpcServer) -> None:
    """gRPC clients send bursts of pings to measure bandwidth. The server must not disconnect them."""

    def frame_of(kind: int, payload: bytes = b"") -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + bytes(4) + payload

    ping, settings, goaway, count = 6, 4, 7, 20
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame_of(settings))
        for number in range(count):
            connection.sendall(frame_of(ping, number.to_bytes(8, "big")))
            time.sleep(0.01)
        received, answers = connection.makefile("rb"), 0
        with received:
            while answers < count:
                head = received.read(9)
                assert head[3] != goaway
                received.read(int.from_bytes(head[:3], "big"))
                answers += head[3] == ping


def _refused(port: int) -> bool:
    """Whether the server closes a further connection at once."""
    try:
        with socket.create_connection(("127.0.0.1", port), 60) as extra:
            return extra.recv(1) == b""
    except ConnectionError:
        return True


def test_idle_connections_lock_nobody_out_for_long(tmp_path: Path, redis_url: str) -> None:
    """Connections that say nothing, and connections that make no call, are closed and make room."""
    with rpc_server(tmp_path, redis_url, SKIPVSR_GRPC_MAX_CONNECTIONS="9", SKIPVSR_GRPC_IDLE_SECONDS="2") as server:
        for opening in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0\0\0\0\4\1\0\0\0\0"):
            connections = [socket.create_connection(("127.0.0.1", server.port), 60) for _ in range(9)]
            for connection in connections:
                with suppress(ConnectionError):
                    connection.sendall(opening)
            # the server may still count the last client's connection instead of one of the nine
            wait_until(partial(_refused, server.port), 60, "one connection too many stays open")
            for connection in connections:  # a connection that stays open times out here
                with suppress(ConnectionError):
                    while connection.recv(65536):
                        pass
                connection.close()
            with server.client() as client:
                assert client.upscaler.ListModels(pb.ListModelsRequest(), timeout=60).models


def test_killed_client_leaves_no_descriptors(server: RpcServer) -> None:
    script = f"""
import itertools, sys
from skipvsr_client.live import StreamClient
from tests.support.rpc_server import noise
frame = noise(1)[0]
for answer in StreamClient({server.address!r}).stream(itertools.repeat(frame), width=32, height=24):
    print(answer.sequence, flush=True)
"""
    before = server.files()
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    client = subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE)
    assert client.stdout
    with client.stdout:
        for _ in range(5):
            client.stdout.readline()
        client.kill()
    client.wait(60)
    wait_until(lambda: server.log.count("interrupted") > 0 and server.files() <= before, 60, "the stream still exists")
    assert serves(server)


def test_health_and_reflection(server: RpcServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "skipvsr.v1.UpscalerService", "skipvsr.v1.JobService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as error:
            health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=60)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"skipvsr.v1.UpscalerService", "skipvsr.v1.JobService", "grpc.health.v1.Health"} <= set(
            database.get_services()
        )
        assert database.FindFileContainingSymbol("skipvsr.v1.UpscalerService").name == "skipvsr/v1/upscaler.proto"


def test_a_failed_device_ends_the_server(tmp_path: Path, redis_url: str) -> None:
    """Health becomes NOT_SERVING, streams get UNAVAILABLE, and the process ends with 70, for its supervisor."""
    command = ("-m", "tests.support.broken_device", "grpc")
    with rpc_server(tmp_path, redis_url, command) as server, grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        error = failure(server, config(), frame(), frame(data=FRAME, sequence=1))
        assert (error.code(), details(error)["ErrorInfo"].reason) == (grpc.StatusCode.UNAVAILABLE, "DEVICE_FAILED")
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.process.wait(60) == 70
        assert "the compute device failed: CUDA error: device-side assert triggered. This process" in server.log


def test_api_key(tmp_path: Path, redis_url: str) -> None:
    with rpc_server(tmp_path / "server", redis_url, SKIPVSR_API_KEY="sésame") as server:
        for key, words in ((None, "needs its API key"), ("wrong", "is wrong")):
            with server.client(api_key=key) as client, pytest.raises(Unauthorized, match=words):
                list(client.stream(noise(1), width=32, height=24))
        with grpc.insecure_channel(server.address) as channel:  # health needs no key
            assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60).status == 1


def test_key_as_bearer_token_and_as_header(tmp_path: Path, redis_url: str) -> None:
    folder = tmp_path / "server"
    with (
        rpc_server(folder, redis_url, SKIPVSR_API_KEY="sesame") as server,
        server.client(api_key="sesame") as client,
    ):
        assert len(list(client.stream(noise(2), width=32, height=24))) == 2
        metadata = (("authorization", "Bearer sesame"),)
        assert client.upscaler.ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=60).models


def test_tls_and_client_certificates(tmp_path: Path, redis_url: str) -> None:
    """The server presents its certificate. With a client CA, clients must present one too."""

    authority = Authority(tmp_path)
    own, known = authority.server(), authority.client()
    settings = {"CERT": own.cert, "KEY": own.key, "CLIENT_CA": authority.ca.cert}
    variables = {f"SKIPVSR_GRPC_TLS_{name}": str(path) for name, path in settings.items()}
    root = authority.ca.cert.read_bytes()
    with rpc_server(tmp_path / "server", redis_url, **variables) as server:
        both = grpc.ssl_channel_credentials(root, known.key.read_bytes(), known.cert.read_bytes())
        with server.client(credentials=both) as client:
            assert len(list(client.stream(noise(2), width=32, height=24))) == 2
        for credentials in (grpc.ssl_channel_credentials(root), None):
            with server.client(credentials=credentials) as client, pytest.raises(ConnectionFailed):
                list(client.stream(noise(1), width=32, height=24, timeout=60))


@pytest.mark.slow
def test_graceful_shutdown(tmp_path: Path, redis_url: str) -> None:
    """After SIGTERM, health is NOT_SERVING, new streams are refused, and open streams get time to end."""
    with (
        rpc_server(tmp_path / "server", redis_url, SKIPVSR_GRPC_DRAIN_SECONDS="3") as server,
        server.client() as client,
    ):
        go_on, never = threading.Event(), threading.Event()

        def requests(until: threading.Event) -> Iterator[pb.StreamRequest]:
            yield config(routing="off")
            yield frame(sequence=1)
            until.wait(60)
            yield frame(sequence=2, end_of_stream=True)

        ends, stays = client.upscaler.Stream(requests(go_on)), client.upscaler.Stream(requests(never))
        for call in (ends, stays):
            next(call)
        health = health_pb2_grpc.HealthStub(client._channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="skipvsr.v1.UpscalerService"), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        go_on.set()
        with pytest.raises(grpc.RpcError) as refused:
            list(client.upscaler.Stream(iter([config()]), timeout=60))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert [response.WhichOneof("message") for response in ends] == ["frame", "frame", "summary"]
        with pytest.raises(grpc.RpcError) as ended:
            list(stays)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "stopping" in ended.value.details()
        never.set()
        assert server.process.wait(60) == 0


@pytest.mark.slow
def test_half_open_connection_is_closed(tmp_path: Path, redis_url: str) -> None:
    """Keepalive pings detect a client that vanished without closing its connection. The session can be resumed."""
    settings = {"SKIPVSR_GRPC_KEEPALIVE_SECONDS": "1", "SKIPVSR_GRPC_IDLE_SECONDS": "120"}
    with rpc_server(tmp_path / "server", redis_url, **settings) as server:
        before, proxy = server.files(), Proxy(server.port)
        hold = threading.Event()

        def requests() -> Iterator[pb.StreamRequest]:
            yield config(routing="off")
            yield frame(sequence=1)
            hold.wait(60)

        try:
            with StreamClient(proxy.address) as client:
                call = client.upscaler.Stream(requests())
                token = next(call).config.session_token
                assert next(call).frame.sequence == 1
                time.sleep(3)
                assert "interrupted" not in server.log, "a silent client that answers pings must stay connected"
                proxy.silence()
                wait_until(lambda: "interrupted" in server.log, 60, "the server does not notice the dead connection")
                wait_until(lambda: server.files() <= before, 60, "the dead connection is still open")
                with server.client() as back:
                    resume = pb.Resume(session_token=token, last_received=1)
                    answers = back.upscaler.Stream(iter([config(routing="off", resume=resume), frame(sequence=2)]))
                    assert [answer.WhichOneof("message") for answer in answers] == ["config", "frame", "summary"]
                hold.set()
                call.cancel()
        finally:
            hold.set()
            proxy.close()


def test_killed_server(tmp_path: Path, redis_url: str) -> None:
    with rpc_server(tmp_path / "server", redis_url) as server, server.client() as client:
        stream = client.stream((noise(1)[0] for _ in range(10**6)), width=32, height=24)
        answers = iter(stream)
        assert [next(answers).sequence for _ in range(4)] == [0, 1, 2, 3]
        server.stop()
        with pytest.raises(ConnectionFailed, match=f"no gRPC server answers at {server.address}"):
            list(answers)


def test_port_in_use_is_reported_in_one_line(server: RpcServer, redis_url: str, tmp_path: Path) -> None:
    env = {**os.environ, "SKIPVSR_REDIS_URL": redis_url, "SKIPVSR_GRPC_PORT": str(server.port), "SKIPVSR_MODEL": "tiny"}
    command = [sys.executable, "-P", "-m", "cli", "grpc"]
    run = subprocess.run(command, env=env | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, timeout=60)
    assert run.returncode == 1
    assert b"SKIPVSR_GRPC_PORT" in run.stderr.splitlines()[-1]


def serves(server: RpcServer) -> bool:
    with server.client() as client:
        return len(list(client.stream(noise(3), width=32, height=24))) == 3
