"""Live frames by `Client.stream` and `AsyncClient.stream` against the real gRPC server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from skipvsr_client import AsyncClient, Client, ConnectionFailed, InvalidRequest
from tests.support.rpc_server import Proxy, RpcServer, expected, noise, rpc_server, tiny

SIZE: dict[str, Any] = {"width": 32, "height": 24, "routing": "off"}
FRAMES = noise(8)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis) -> Iterator[RpcServer]:
    with rpc_server(tmp_path_factory.mktemp("rpc"), redis_server.url) as running:
        yield running


@pytest.fixture(scope="module")
def wanted() -> list[bytes]:
    return [rgb.tobytes() for rgb in expected(tiny(), FRAMES)]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.asarray])
def test_frames_of_every_kind(server: RpcServer, wanted: list[bytes], kind: Any) -> None:
    frames = FRAMES if kind is np.asarray else [kind(frame.tobytes()) for frame in FRAMES]
    with Client(grpc=server.address) as client:
        stream = client.stream(((10 * index, frame) for index, frame in enumerate(frames)), **SIZE)
        answers = list(stream)
    assert [bytes(answer.data) for answer in answers] == wanted
    assert [answer.pts for answer in answers] == list(range(0, 80, 10))
    assert (answers[0].width, answers[0].height) == (128, 96)
    assert answers[0].rgb is not None
    assert answers[0].rgb.shape == (96, 128, 3)
    assert stream.summary is not None
    assert stream.summary.frames == 8


def test_frames_of_another_size_are_refused(server: RpcServer) -> None:
    with Client(grpc=server.address) as client, pytest.raises(InvalidRequest, match="bytes") as refused:
        list(client.stream([b"too short"], **SIZE))
    assert (refused.value.kind, refused.value.title) == ("invalid-request", "INVALID_ARGUMENT")
    assert [error.field for error in refused.value.errors] == ["frame.data"]


def test_a_server_that_does_not_run_is_named() -> None:
    with Client(grpc="127.0.0.1:1") as client, pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1.*skipvsr up"):
        list(client.stream(FRAMES, **SIZE))


@pytest.mark.parametrize("backend", ["asyncio"])
def test_an_asynchronous_source_in_an_event_loop(server: RpcServer, wanted: list[bytes], backend: str) -> None:
    got: list[bytes] = []

    async def camera() -> AsyncIterator[np.ndarray]:
        for index, frame in enumerate(FRAMES):
            while len(got) < index:  # a live source has no frame in advance
                await anyio.sleep(0.01)
            yield frame

    async def upscale() -> None:
        nonlocal got
        async with AsyncClient(grpc=server.address) as client:
            stream = client.stream(camera(), **SIZE)
            async for answer in stream:
                got += [bytes(answer.data)]
        assert got == wanted
        assert stream.summary is not None
        assert stream.accepted is not None
        assert stream.resumptions == 0

    anyio.run(upscale, backend=backend)


def test_an_event_loop_goes_on_while_a_stream_waits_and_ends_with_it(server: RpcServer) -> None:
    async def silent() -> AsyncIterator[np.ndarray]:
        yield FRAMES[0]
        await anyio.sleep_forever()

    async def upscale() -> None:
        got = []
        async with AsyncClient(grpc=server.address) as client:
            with anyio.move_on_after(60) as scope:
                async for answer in client.stream(silent(), **SIZE):
                    got += [answer.sequence]
                    scope.deadline = anyio.current_time() + 0.5
        assert scope.cancelled_caught
        assert got == [0]

    anyio.run(upscale)


def test_broken_connections_are_resumed_in_an_event_loop(server: RpcServer, wanted: list[bytes]) -> None:
    proxy, cut = Proxy(server.port), False

    async def source() -> AsyncIterator[np.ndarray]:
        for index, frame in enumerate(FRAMES):
            while index > 5 and not cut:  # else the last answer may come before the cut
                await anyio.sleep(0.01)
            yield frame

    async def upscale() -> None:
        nonlocal cut
        got = []
        async with AsyncClient(grpc=proxy.address) as client:
            stream = client.stream(source(), **SIZE)
            async for answer in stream:
                got.append(bytes(answer.data))
                if len(got) == 3:
                    proxy.cut()
                    cut = True
        assert got == wanted
        assert stream.resumptions == 1

    try:
        anyio.run(upscale)
    finally:
        proxy.close()


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        (
            "import skipvsr_client.live\nprint({'numpy', 'torch', 'av', 'rq', 'pydantic'} & set(sys.modules))",
            "set()",
        ),
        (
            "sys.modules['grpc'] = None; import skipvsr_client\n"
            "try: skipvsr_client.Client().stream([], width=1, height=1)\n"
            "except skipvsr_client.SkipVsrError as error: print(error)",
            "grpc is missing: live frames need pip install 'skipvsr-client[grpc]'",
        ),
    ],
)
def test_packages_that_the_client_needs(code: str, printed: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == printed, done.stderr
