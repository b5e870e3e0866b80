"""Attacks on the API before authentication: heads and trailers without end, idle and slow connections."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, suppress

import httpx
import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.settings import Settings
from tests.support.api_process import Api, api

HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /upscale HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
FORM = CHUNKED + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
LINE = b"X-Filler: " + b"a" * 990 + b"\r\n"
MIB = 1 << 20


@pytest.fixture(scope="module")
def locked(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API with a key that the attackers do not have."""
    data_dir = tmp_path_factory.mktemp("locked") / "data"
    data_dir.mkdir()
    with api(Settings(redis_url=redis_server.url, data_dir=data_dir), api_key="secret") as server:
        yield server


def flood(server: Api, opening: bytes, piece: bytes, size: int) -> bytes:
    """Send up to `size` bytes of `piece` after `opening`. Returns the beginning of the answer."""
    block = piece * max(1, 65536 // len(piece))
    with server.connect(timeout=1) as connection, suppress(OSError):
        connection.sendall(opening)
        with suppress(OSError):  # disconnected, or not read any more
            for _ in range(size // len(block)):
                connection.sendall(block)
        return connection.recv(65536)
    return b""


@pytest.mark.parametrize(
    ("opening", "piece"),
    [
        (HEAD, LINE),
        (HEAD + b"X-Long: ", b"a"),
        (b"GET /", b"a"),
        (CHUNKED, LINE),
        (FORM + b"1\r\na\r\n0\r\n", LINE),
        (FORM + b"1\r\na\r\n0\r\nX-Long: ", b"a"),
        (FORM + b"1;", b"a"),
        (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
        (b"", b"POST /jobs/a/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"),
    ],
    ids=["headers", "header", "url", "headers of an upload", "trailers", "trailer", "extension", "requests", "posts"],
)
def test_endless_input_costs_no_memory(locked: Api, opening: bytes, piece: bytes) -> None:
    """Two clients send 60 MB each."""
    before = locked.start_peak()
    answers = [flood(locked, opening, piece, 60 * MIB) for _ in range(2)]
    assert locked.status() == 200
    peak = locked.peak()
    print(f"{before} MB, then {peak} MB; {answers[0][:60]!r}")
    assert peak - before < 24


@pytest.mark.parametrize("key", ["", "secret"])
def test_a_body_in_tiny_pieces_is_cut_off(settings: Settings, locked: Api, key: str) -> None:
    """15 MB in pieces of one byte once took the server a minute, also after a refusal, and others waited for 10 s."""
    with nullcontext(locked) if key else api(settings) as server:
        begun = server.cpu_seconds()
        flood(server, FORM, b"1\r\n-\r\n", 15 * MIB)
        assert server.status() == 200
        assert server.cpu_seconds() - begun < 5
        with server.connect() as connection:  # a few small pieces are fine
            connection.sendall(FORM + b"1\r\n-\r\n" * 1000 + b"0\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 401" if key else b"HTTP/1.1 400")


def test_two_lengths_of_a_body_are_refused(locked: Api) -> None:
    """Else a proxy that believes the other length could be made to forward a hidden request."""
    with locked.connect() as connection:
        connection.sendall(CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        heard = b""
        with suppress(ConnectionError):
            while piece := connection.recv(65536):
                heard += piece
    assert heard.startswith(b"HTTP/1.1 400")
    assert heard.count(b"HTTP/1.1 ") == 1


def test_idle_connections_lock_nobody_out(settings: Settings) -> None:
    """300 idle connections are more than the files that the process may open."""
    with api(settings, files=(64, 256)) as server, ExitStack() as stack:
        assert server.files() == 256, "the soft limit of open files is raised to the hard limit"
        before = server.start_peak()
        for opening in (b"", HEAD, FORM[:40]):
            for _ in range(100):
                stack.enter_context(server.connect()).sendall(opening)
            assert server.status() == 200
        assert server.peak() - before < 24


def test_connections_at_work_are_kept_and_others_are_told_to_come_back(settings: Settings) -> None:
    with api(settings, http_max_connections="4") as server, ExitStack() as stack:
        for _ in range(4):
            working = stack.enter_context(server.connect())
            working.sendall(FORM.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
            assert working.recv(65536).startswith(b"HTTP/1.1 100"), "the request is not in work"
        answer = httpx.get(f"{server.url}/healthz")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "SKIPVSR_HTTP_MAX_CONNECTIONS" in answer.json()["detail"]
        assert answer.headers["content-type"] == "application/problem+json"
        working.sendall(b"0\r\n\r\n")
        assert b"400" in working.recv(65536)
        assert server.status() == 200, "a connection whose request is over makes room"


def test_slow_heads_and_clients_that_read_nothing_are_cut_off(settings: Settings) -> None:
    """A client that sends one byte at a time, before the first or the second head, is cut off in time."""
    with api(settings, http_head_seconds="1", download_idle_seconds="1") as server:
        for opening in (b"", HEAD + b"\r\n", b"POST /jobs/a/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"):
            with server.connect() as connection:
                connection.sendall(opening)
                started, heard = time.monotonic(), b""
                with suppress(ConnectionError):
                    for byte in 20 * b"GET /":
                        connection.sendall(bytes([byte]))
                        time.sleep(0.05)
                    while piece := connection.recv(65536):
                        heard += piece
                assert time.monotonic() - started < 60
            assert not heard or opening or b"408" in heard
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.settimeout(60)
            with pytest.raises(ConnectionError):
                connection.sendall(200_000 * b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
