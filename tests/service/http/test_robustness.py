"""Misbehaving clients, over raw sockets."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until

BOUNDARY = "x7f"
OPENING = (
    f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\nContent-Type: video/mp4\r\n\r\n'
).encode()
CLOSING = f"\r\n--{BOUNDARY}--\r\n".encode()


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings.model_copy(update={"max_upload_bytes": 4 << 20, "upload_idle_seconds": 0.5})) as running:
        yield running


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=60)


def head(length: int, extra: str = "", content_type: str = f"multipart/form-data; boundary={BOUNDARY}") -> bytes:
    return (
        f"POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{extra}\r\n"
    ).encode()


def answer_of(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Read a response. Returns its status and JSON body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, f"the connection was closed after {data!r}"
        data += piece
    headers, _, body = data.partition(b"\r\n\r\n")
    length = int(headers.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return int(headers.split()[1]), json.loads(body)


def send_form(service: Service, body: bytes, **kwargs: str) -> tuple[int, dict[str, object]]:
    with connect(service) as connection:
        connection.sendall(head(len(body), **kwargs) + body)
        return answer_of(connection)


def test_disconnected_upload_leaves_no_files(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(head(3 << 20) + OPENING + bytes(2 << 20))
        wait_until(lambda: bool(service.files()), 60, "the upload was not written while it arrived")
    wait_until(lambda: service.files() == [], 60, "the cut-off upload is still there")
    assert service.client.get("/healthz").status_code == 200


def test_stalled_upload_is_aborted(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(head(1 << 20) + OPENING + b"first bytes")
        status, problem = answer_of(connection)
        assert (status, problem["type"]) == (408, "/problems/upload-stalled")
        assert connection.recv(100) == b""  # closed: the server does not read the rest
    assert service.files() == []


def test_announced_size_over_the_limit_is_refused_unread(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(head(1 << 40, extra="Expect: 100-continue\r\n"))
        status, problem = answer_of(connection)
    assert (status, problem["type"]) == (413, "/problems/too-large")
    assert "SKIPVSR_MAX_UPLOAD_BYTES" in str(problem["detail"])


@pytest.mark.parametrize(
    ("limit", "status", "kind"),
    [({}, 413, "too-large"), ({"quota_gb": 0.001}, 507, "storage-full"), ({"min_free_gb": 1e9}, 507, "storage-full")],
)
def test_chunked_body_over_a_limit_is_cut_off(
    settings: Settings, limit: dict[str, float], status: int, kind: str
) -> None:
    """A chunked body announces no size, so the limits apply while bytes arrive."""
    with serving(settings.model_copy(update={"max_upload_bytes": 4 << 20, **limit})) as service:
        _send_endless_body(service, status, kind)


def _send_endless_body(service: Service, status: int, kind: str) -> None:
    request = (
        "POST /upscale HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    ).encode()
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with connect(service) as connection:
        connection.sendall(request + f"{len(OPENING):x}\r\n".encode() + OPENING + b"\r\n")
        with suppress(ConnectionError):  # the server may disconnect before everything is sent
            for _ in range(5 << 4):
                connection.sendall(piece)
        got, problem = answer_of(connection)
    assert (got, problem["type"]) == (status, f"/problems/{kind}")
    assert service.files() == []


def test_upload_is_not_held_in_memory(settings: Settings) -> None:
    """Peak memory grows by less than 24 MiB during an upload of 200 MiB. Server and test share this process."""
    size = 200 << 20
    with serving(settings) as service, connect(service) as connection:
        service.client.get("/healthz")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        connection.sendall(head(len(OPENING) + size + len(CLOSING)) + OPENING)
        block = bytes(1 << 20)
        for _ in range(200):
            connection.sendall(block)
        connection.sendall(CLOSING)
        assert answer_of(connection)[0] == 415
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert service.files() == []
    assert grown < 24 << 10, f"{grown} KiB more"


def part(name: str, value: str = "1") -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "cut off"),
        (b"garbage that is no form", "malformed"),
        (OPENING + b"abc", "cut off"),
        (f"--{BOUNDARY}--\r\n".encode(), "contains no file"),
        (part("crf") + f"--{BOUNDARY}--\r\n".encode(), "contains no file"),
        (part("file") + f"--{BOUNDARY}--\r\n".encode(), "contains no file"),
        (part("crf") + part("crf") + OPENING + b"abc" + CLOSING, "'crf' is given twice"),
        (OPENING + b"abc\r\n" + OPENING + b"abc" + CLOSING, "more than one file"),
        (OPENING.replace(b'"file"', b'"video"') + b"abc" + CLOSING, "goes into the field 'file'"),
        (OPENING.replace(b'name="file"; ', b"") + b"abc" + CLOSING, "has no name"),
        (b"".join(part(f"f{i}") for i in range(40)) + OPENING + b"abc" + CLOSING, "more than 32 fields"),
        (OPENING.replace(b"Content-Type", b"X-" + b"a" * 20000) + b"abc" + CLOSING, "malformed"),
    ],
)
def test_malformed_forms(service: Service, body: bytes, says: str) -> None:
    status, problem = send_form(service, body)
    assert status == 400
    assert says in str(problem["detail"])
    assert service.files() == []


@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/form-data", "multipart/form-data; boundary=" + "b" * 300]
)
def test_bodies_of_other_content_types(service: Service, content_type: str) -> None:
    status, problem = send_form(service, b"{}", content_type=content_type)
    assert (status, problem["type"]) == (400, "/problems/invalid-request")


def test_huge_headers_end_only_their_connection(service: Service) -> None:
    with connect(service) as connection:
        try:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * (1 << 20) + b"\r\n\r\n")
            answer = connection.recv(65536)
        except ConnectionError:
            answer = b""
    assert not answer or int(answer.split()[1]) in (200, 400, 431)
    assert service.client.get("/healthz").status_code == 200


def test_not_http(service: Service) -> None:
    with connect(service) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        connection.sendall(b"\r\n\r\n")
        assert b"400" in connection.recv(65536)
    assert service.client.get("/healthz").status_code == 200


def test_slow_download_does_not_block_others(service: Service, tmp_path: Path) -> None:
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=2)).json()["id"]
    service.finish(job_id, bytes(64 << 20))
    with connect(service) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(f"GET /jobs/{job_id}/result HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        for _ in range(20):
            assert service.client.get("/healthz").status_code == 200


def test_many_uploads_at_once(service: Service, tmp_path: Path) -> None:
    """Interleaved uploads do not mix their bytes."""
    clips = [make_clip(tmp_path / f"{n}.mp4", frames=n + 2).read_bytes() for n in range(8)]
    connections = [connect(service) for _ in clips]
    bodies = [OPENING + clip + CLOSING for clip in clips]
    for connection, body in zip(connections, bodies, strict=True):
        connection.sendall(head(len(body)))
    for start in range(0, max(map(len, bodies)), 500):
        for connection, body in zip(connections, bodies, strict=True):
            connection.sendall(body[start : start + 500])
    for connection, clip in zip(connections, clips, strict=True):
        status, job = answer_of(connection)
        assert status == 202, job
        assert service.operations.storage.input_path(str(job["id"])).read_bytes() == clip
        connection.close()
    assert len(service.client.get("/jobs").json()["jobs"]) == len(clips)
    assert sum(path.name == "input" for path in service.files()) == len(clips)


def test_announced_sizes_lock_nobody_out(settings: Settings, tmp_path: Path) -> None:
    """Uploads that announce more than the disk has, but send nothing, reserve next to nothing."""
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    with serving(settings.model_copy(update={"max_uploads": 12})) as service, ExitStack() as stack:
        storage = service.operations.storage
        storage.min_free = storage.free() - (200 << 20)  # 200 MiB for uploads
        for _ in range(11):
            connection = stack.enter_context(connect(service))
            connection.sendall(head(100 << 20) + OPENING)
        wait_until(lambda: len(service.files()) == 11, 60, "the uploads did not begin")
        assert service.post(clip).status_code == 202
        with connect(service) as connection:
            connection.sendall(head(300 << 20) + OPENING)
            assert answer_of(connection)[0] == 507, "more than there is"


def test_uploads_at_the_same_time_are_limited(settings: Settings, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    with serving(settings.model_copy(update={"max_uploads": 2})) as service:
        with connect(service) as first, connect(service) as second:
            for connection in (first, second):
                connection.sendall(head(1 << 20) + OPENING)
            wait_until(lambda: len(service.files()) == 2, 60, "the uploads did not begin")
            answer = service.post(clip)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
            assert answer.json()["type"] == "/problems/too-many-uploads"
            assert "SKIPVSR_MAX_UPLOADS" in answer.json()["detail"]
        wait_until(lambda: service.files() == [], 60, "the cut-off uploads are still there")
        assert service.post(clip).status_code == 202


def test_slow_uploads_are_cut_off(settings: Settings) -> None:
    """A byte now and then is data, but too little."""
    limits = {"upload_idle_seconds": 0.5, "upload_min_rate": 10_000.0}
    with serving(settings.model_copy(update=limits)) as service, connect(service) as connection:
        connection.sendall(head(1 << 30) + OPENING)
        started = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() < started + 3:
                connection.sendall(b"a")
                time.sleep(0.05)
        status, problem = answer_of(connection)
        assert (status, problem["type"]) == (408, "/problems/upload-stalled")
        assert "SKIPVSR_UPLOAD_MIN_RATE" in str(problem["detail"])
        wait_until(lambda: service.files() == [], 60, "the upload is still there")
