"""Videos from other hosts: allow-list, private addresses, redirects, limits of size and time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.settings import Settings
from service.fetch import _filename
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until

ALLOWED = {"url_hosts": "127.0.0.1", "url_networks": "127.0.0.0/8", "max_upload_bytes": 1 << 20}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=2)


class Remote:
    """Another host."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Any], None]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        remote = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                remote.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                with suppress(OSError):
                    remote.answers[self.path.partition("?")[0]](self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path: str, data: bytes = b"", status: int = 200, **headers: str) -> None:
        def send(handler: Any) -> None:
            handler.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                if value:
                    handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(data)

        self.answers[path] = send


@pytest.fixture
def remote() -> Iterator[Remote]:
    found = Remote()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.05,))
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings.model_copy(update={**ALLOWED, "upload_idle_seconds": 0.5, "url_seconds": 2.0})) as running:
        yield running


def post(service: Service, url: str, **more: Any) -> httpx.Response:
    return service.client.post("/upscale", json={"url": url, **more})


def test_a_video_from_another_host(service: Service, remote: Remote, clip: Path) -> None:
    data = clip.read_bytes()
    remote.answer("/a/Zw%C3%B6lf.mp4", data)
    remote.answer("/named", data, Content_Disposition="attachment; filename=\"x.mov\"; filename*=UTF-8''%C3%BC.mov")
    remote.answer("/moved", status=302, Location="/a/Zw%C3%B6lf.mp4")
    remote.answer("/chunked", data, Content_Length="")
    found = {}
    for path in ("/a/Zw%C3%B6lf.mp4?signature=secret", "/named", "/moved", "/chunked"):
        answer = post(service, remote.url + path, scale=2)
        assert answer.status_code == 202, answer.text
        assert service.client.get(answer.json()["links"]["input"]).content == data
        found[path.partition("?")[0]] = answer.json()["filename"]
        assert "secret" not in answer.text
    assert found == {"/a/Zw%C3%B6lf.mp4": "Zwölf.mp4", "/named": "ü.mov", "/moved": "Zwölf.mp4", "/chunked": "chunked"}
    for how in ({"data": {"url": f"{remote.url}/named"}}, {"params": {"url": f"{remote.url}/named"}}):
        answer = service.client.post("/upscale", **how)  # type: ignore[arg-type]
        assert answer.status_code == 202, answer.text
    assert post(service, f"{remote.url}/named", filename="mine.mp4").json()["filename"] == "mine.mp4"
    sent = remote.asked[0][1]
    assert sent["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "x-api-key", "referer"} & sent.keys()


def test_an_idempotency_key_fetches_once(service: Service, remote: Remote, clip: Path) -> None:
    remote.answer("/a.mp4", clip.read_bytes())
    key = {"Idempotency-Key": "mine"}
    body = {"url": f"{remote.url}/a.mp4"}
    first, again = (service.client.post("/upscale", json=body, headers=key) for _ in "12")
    assert first.json()["id"] == again.json()["id"]
    assert len(remote.asked) == 1
    assert service.client.post("/upscale", json={**body, "crf": 30}, headers=key).status_code == 422


def test_fetching_is_off_by_default(settings: Settings, remote: Remote) -> None:
    with serving(settings) as service:
        answer = post(service, remote.url)
        assert (answer.status_code, "SKIPVSR_URL_HOSTS" in answer.json()["detail"]) == (400, True)
    assert remote.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "http://localhost:1/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://[::1]/",
        "x",
    ],
)
def test_addresses_that_are_not_allowed(service: Service, url: str) -> None:
    assert post(service, url).status_code == 400
    assert service.files() == []


def test_an_allowed_host_with_a_private_address_is_refused(settings: Settings, remote: Remote) -> None:
    port = remote.server.server_port
    with serving(settings.model_copy(update={"url_hosts": "127.0.0.1,localhost"})) as service:
        for host in ("127.0.0.1", "localhost"):
            answer = post(service, f"http://{host}:{port}/")
            assert (answer.status_code, answer.json()["type"]) == (400, "/problems/address-refused")
    assert remote.asked == []


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:1/", "http://10.0.0.1/", "http://localhost/", "file:///etc/passwd"]
)
def test_redirects_to_other_hosts_are_refused(settings: Settings, remote: Remote, target: str) -> None:
    remote.answer("/", status=307, Location=target)
    allowed = {**ALLOWED, "url_networks": "127.0.0.1", "url_hosts": "127.0.0.1,127.0.0.2,10.0.0.1"}
    with serving(settings.model_copy(update=allowed)) as service:
        assert post(service, remote.url).status_code == 400
        assert service.files() == []


def test_hosts_that_send_no_video(service: Service, remote: Remote, clip: Path) -> None:
    remote.answer("/gone", status=404)
    remote.answer("/broken", status=500)
    remote.answer("/round", status=302, Location="/round")
    remote.answer("/nowhere", status=302)
    remote.answer("/packed", clip.read_bytes(), Content_Encoding="gzip")
    remote.answer("/cut", clip.read_bytes(), Content_Length=str(10**6))
    remote.answer("/empty", b"")
    remote.answer("/text", b"no video")
    remote.answer("/large", bytes((1 << 20) + 1))
    remote.answer("/endless", bytes(4 << 20), Content_Length="")
    expected = {"/empty": 400, "/text": 415, "/large": 413, "/endless": 413}
    for path in remote.answers:
        answer = post(service, remote.url + path)
        assert answer.status_code == expected.get(path, 502), (path, answer.text)
        assert service.files() == []
    assert post(service, "http://127.0.0.1:1/").json()["type"] == "/problems/fetch-failed"
    asked = len(remote.asked)
    assert post(service, f"{remote.url}/text", crf=99).status_code == 400
    assert len(remote.asked) == asked, "wrong options are refused first"


@pytest.mark.parametrize(
    "named", ["filename*=undefined''x.mp4", "filename*=idna''%ff.mp4", 'filename="' + ";" * 60_000, "filename"]
)
def test_a_hostile_name_of_a_file_costs_nothing(named: str) -> None:
    asked = httpx.Request("GET", "http://example.com/a/clip.mp4")
    answer = httpx.Response(200, headers={"Content-Disposition": f"attachment; {named}"}, request=asked)
    before = time.thread_time()
    assert _filename(answer) == ("clip.mp4" if named != "filename" else "video")
    assert time.thread_time() - before < 2


def test_slow_hosts_are_left(service: Service, remote: Remote) -> None:
    def stall(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x")
        time.sleep(1)

    def drip(handler: Any) -> None:  # the head never ends
        handler.send_response(200)
        for number in range(50):
            handler.send_header(f"X-{number}", "x")
            handler.flush_headers()
            time.sleep(0.1)

    remote.answers = {"/stall": stall, "/drip": drip}
    assert post(service, f"{remote.url}/stall").status_code == 408
    answer = post(service, f"{remote.url}/drip")
    assert (answer.status_code, "SKIPVSR_URL_SECONDS" in answer.json()["detail"]) == (502, True)
    wait_until(lambda: service.files() == [], 60, "remains of a fetch")


def test_a_client_that_hangs_up_ends_its_fetch(settings: Settings, remote: Remote) -> None:
    def flow(handler: Any) -> None:  # to the end of the connection
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(8192))
            time.sleep(0.05)

    remote.answers = {"/": flow}
    with serving(settings.model_copy(update=ALLOWED)) as service:
        with socket.create_connection(("127.0.0.1", service.port), 60) as client:
            target = f"/upscale?url={remote.url}/"
            client.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
            wait_until(lambda: bool(service.files()), 60, "the fetch did not begin")
        wait_until(lambda: service.files() == [], 60, "the fetch goes on")
