"""Webhooks with real receivers: signatures, repetitions, refused addresses, and receivers that misbehave."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError
from standardwebhooks import Webhook

from jobs.keys import WEBHOOKS
from jobs.schema import Job, JobOptions, JobState
from jobs.settings import Settings
from jobs.storage import new_id
from jobs.store import JobStore
from service.http import webhooks
from service.http.webhooks import Backoff
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
QUICK = Backoff(first=0.1, factor=1.0, most=0.1)


@dataclass
class Receiver:
    """A server that records messages, and answers as the test says: a status, or an action on the request."""

    answers: list[int | Callable[[BaseHTTPRequestHandler], None]]
    messages: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    port: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.messages.append((dict(request.headers), body))
        self.times.append(time.monotonic())
        answer = self.answers[min(len(self.messages), len(self.answers)) - 1]
        if callable(answer):
            answer(request)
        else:
            request.send_response(answer)
            request.send_header("Content-Length", "0")
            request.end_headers()

    def wait(self, count: int, seconds: float = 60) -> list[tuple[dict[str, str], bytes]]:
        wait_until(lambda: len(self.messages) >= count, seconds, f"{count} messages expected: {len(self.messages)}")
        return self.messages


@contextmanager
def receiving(*answers: int | Callable[[BaseHTTPRequestHandler], None]) -> Iterator[Receiver]:
    receiver = Receiver(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self)

        def do_GET(self) -> None:
            receiver.messages.append(({"redirected": "yes"}, b""))

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.done.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hooked(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with webhooks to this machine, and deliveries without long pauses."""
    monkeypatch.setattr(webhooks, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(webhooks, "Backoff", lambda: QUICK)
    return settings.model_copy(update={"webhook_secret": SecretStr(SECRET), "webhook_networks": "127.0.0.1, ::1"})


def create(store: JobStore, url: str) -> str:
    job = Job(id=new_id(), filename="clip.mp4", options=JobOptions(), webhook=url)
    store.create(job)
    return job.id


def finish(store: JobStore, job_id: str, state: JobState = JobState.DONE) -> None:
    claim = store.claim(job_id, "worker")
    assert claim
    store.release(claim, state)


def payload(message: tuple[dict[str, str], bytes]) -> dict[str, Any]:
    """The content of a message whose signature is right."""
    headers, body = message
    found: dict[str, Any] = Webhook(SECRET).verify(body, headers)
    return found


def test_a_signed_message_tells_that_an_uploaded_job_is_done(hooked: Settings, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    with receiving(204) as receiver, serving(hooked) as service:
        queued = service.post(clip, webhook=receiver.url, crf="20").json()
        assert queued["webhook"] == receiver.url
        assert "webhook" not in queued["options"]
        service.finish(queued["id"], b"result")
        content = payload(receiver.wait(1)[0])
        assert (content["type"], content["data"]["id"]) == ("job.done", queued["id"])
        assert content["data"] == service.client.get(f"/jobs/{queued['id']}").json()
        assert content["timestamp"]
        headers = receiver.messages[0][0]
        assert headers["Content-Type"] == "application/json"
        metrics = service.client.get("/metrics").text
        assert 'skipvsr_webhooks_total{outcome="delivered"} 1.0' in metrics
        assert "skipvsr_webhooks_pending 0.0" in metrics
        assert len(receiver.messages) == 1


def test_every_settled_state_has_its_type(hooked: Settings) -> None:
    with receiving(200) as receiver, serving(hooked) as service:
        store = service.operations.store
        job_id = create(store, receiver.url)
        for number, act in enumerate(
            [
                lambda: store.request_pause(job_id),
                lambda: (store.resume(job_id), finish(store, job_id, JobState.FAILED)),
                lambda: (store.resume(job_id), store.request_cancel(job_id)),
            ],
            1,
        ):
            act()
            receiver.wait(number)
    found = [payload(message) for message in receiver.messages]
    assert [content["type"] for content in found] == ["job.paused", "job.failed", "job.cancelled"]
    assert [content["data"]["state"] for content in found] == ["paused", "failed", "cancelled"]
    assert len({headers["webhook-id"] for headers, _ in receiver.messages}) == 3


def test_a_message_is_repeated_until_it_arrives(hooked: Settings) -> None:
    with receiving(500, 500, 200) as receiver, serving(hooked) as service:
        finish(service.operations.store, create(service.operations.store, receiver.url))
        receiver.wait(3)
        time.sleep(0.4)
    assert len(receiver.messages) == 3
    assert len({headers["webhook-id"] for headers, _ in receiver.messages}) == 1
    assert len({body for _, body in receiver.messages}) == 1
    assert all(payload(message) for message in receiver.messages)


def test_a_message_survives_a_restart(hooked: Settings, store: JobStore) -> None:
    with receiving(500) as receiver:
        with serving(hooked):
            finish(store, create(store, receiver.url))
            receiver.wait(1)
        receiver.answers = [200]
        before = len(receiver.messages)
        for name in store.redis.zrange(WEBHOOKS, 0, -1):
            store.redis.zadd(WEBHOOKS, {name: 0})  # due now: a busy machine may have made several attempts
        with serving(hooked):
            receiver.wait(before + 1)


def reset(request: BaseHTTPRequestHandler) -> None:
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    request.connection.close()


def endless(request: BaseHTTPRequestHandler, status: int = 500) -> None:
    request.send_response(status)
    request.end_headers()
    try:
        while True:
            request.wfile.write(b"x" * 65536)
    except OSError:
        pass


def endless_header(request: BaseHTTPRequestHandler) -> None:
    try:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            request.wfile.write(b"x" * 65536)
    except OSError:
        pass


def trickle(request: BaseHTTPRequestHandler) -> None:
    """Send one byte of the head at a time, so that no read ever times out."""
    try:
        while True:
            request.wfile.write(b"H")
            request.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


def test_receivers_that_misbehave_are_tried_again(hooked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_TOTAL_SECONDS", 0.5)
    with serving(hooked) as service:
        for misbehave in (reset, endless, endless_header, trickle):
            with receiving(misbehave, 200) as receiver:
                finish(service.operations.store, create(service.operations.store, receiver.url))
                assert payload(receiver.wait(2)[1])


def test_nobody_reads_an_endless_answer_of_success(hooked: Settings) -> None:
    with receiving(lambda request: endless(request, 200)) as receiver, serving(hooked) as service:
        finish(service.operations.store, create(service.operations.store, receiver.url))
        receiver.wait(1)
        wait_until(lambda: not service.operations.store.redis.zcard("skipvsr:webhooks"), 60, "the end of the delivery")


def test_a_receiver_that_hangs_delays_nobody_else(hooked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver hangs to the end of the test: no attempt ends before, however busy the machine is."""
    monkeypatch.setattr(webhooks, "_TIMEOUT", httpx.Timeout(600.0))
    monkeypatch.setattr(webhooks, "_TOTAL_SECONDS", 600.0)
    with receiving(lambda _: receiver.done.wait()) as receiver, receiving(200) as quick, serving(hooked) as service:
        store = service.operations.store
        for _ in range(100):
            finish(store, create(store, receiver.url))
        receiver.wait(webhooks._AT_ONCE_TO_HOST)
        url = quick.url.replace("127.0.0.1", "localhost")  # another host: receivers are told apart by name
        finish(store, create(store, url))
        quick.wait(1)
        assert len(receiver.messages) == webhooks._AT_ONCE_TO_HOST
        assert service.client.get("/jobs").status_code == 200


def test_redirects_are_not_followed(hooked: Settings) -> None:
    with receiving(200) as inner:

        def redirect(request: BaseHTTPRequestHandler) -> None:
            request.send_response(307)
            request.send_header("Location", inner.url)
            request.send_header("Content-Length", "0")
            request.end_headers()

        with receiving(redirect, 200) as outer, serving(hooked) as service:
            finish(service.operations.store, create(service.operations.store, outer.url))
            outer.wait(2)
        assert inner.messages == []


def warnings_of(service: Service, job_id: str) -> list[str]:
    wait_until(lambda: bool(service.operations.get(job_id).warnings), 60, "a warning")
    return service.operations.get(job_id).warnings


def test_a_private_address_behind_a_name_is_given_up_and_named(hooked: Settings) -> None:
    with receiving(200) as receiver, serving(hooked.model_copy(update={"webhook_networks": ""})) as service:
        job_id = create(service.operations.store, receiver.url.replace("127.0.0.1", "localhost"))
        finish(service.operations.store, job_id)
        (warning,) = warnings_of(service, job_id)
        assert "job.done to localhost was given up after 1 attempt: localhost has a private address" in warning
        assert receiver.messages == []
        given_up = 'skipvsr_webhooks_total{outcome="given_up"} 1.0'  # counted after the warning
        wait_until(lambda: given_up in service.client.get("/metrics").text, 60, given_up)


class Thrice(Backoff):
    """Three attempts: the pause after the third one is longer than a delivery lasts."""

    def pause(self, tries: int) -> float:
        return 0.1 if tries < 3 else 2 * self.until


def test_a_delivery_is_given_up_at_last_and_named(hooked: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "Backoff", Thrice)
    with receiving(503) as receiver, serving(hooked) as service:
        job_id = create(service.operations.store, receiver.url)
        finish(service.operations.store, job_id)
        (warning,) = warnings_of(service, job_id)
        assert warning == "The webhook job.done to 127.0.0.1 was given up after 3 attempts: status 503."
        assert len(receiver.messages) == 3
        assert not service.operations.store.redis.keys("skipvsr:webhook*")


def test_gone_ends_the_repetitions_and_retry_after_delays_them(hooked: Settings) -> None:
    with receiving(410) as receiver, serving(hooked) as service:
        job_id = create(service.operations.store, receiver.url)
        finish(service.operations.store, job_id)
        assert "status 410" in warnings_of(service, job_id)[0]
        assert len(receiver.messages) == 1

    with receiving(410) as receiver, serving(hooked) as service:
        store = service.operations.store
        job_id = create(store, receiver.url)
        for round_ in range(3):
            store.request_pause(job_id)
            receiver.wait(round_ + 1)
            wait_until(lambda: not store.redis.keys("skipvsr:webhook*"), 60, "the end of the delivery")
            store.resume(job_id)
        assert len(warnings_of(service, job_id)) == 1, "a job that pauses again and again gets no endless list"

    def later(request: BaseHTTPRequestHandler) -> None:
        request.send_response(429)
        request.send_header("Retry-After", "2")
        request.send_header("Content-Length", "0")
        request.end_headers()

    with receiving(later, 200) as receiver, serving(hooked) as service:
        finish(service.operations.store, create(service.operations.store, receiver.url))
        receiver.wait(2)
        assert receiver.times[1] - receiver.times[0] > 0.9  # Redis counts whole seconds


def test_two_secrets_sign_every_message_twice(hooked: Settings) -> None:
    second = "whsec_" + "QUFB" * 10
    both = hooked.model_copy(update={"webhook_secret": SecretStr(f"{second} {SECRET}")})
    with receiving(200) as receiver, serving(both) as service:
        finish(service.operations.store, create(service.operations.store, receiver.url))
        headers, body = receiver.wait(1)[0]
        for secret in (SECRET, second):
            assert Webhook(secret).verify(body, headers)


@pytest.mark.parametrize(
    ("url", "update", "reason"),
    [
        ("https://hooks.example.com/", {"webhook_secret": None}, "SKIPVSR_WEBHOOK_SECRET"),
        ("https://hooks.example.com/", {"webhook_hosts": "*.example.org"}, "SKIPVSR_WEBHOOK_HOSTS"),
        ("http://10.0.0.1/", {}, "private address"),
        ("http://[::ffff:10.0.0.1]/", {}, "private address"),
        ("file:///etc/passwd", {}, "http or https"),
        ("https://user:secret@example.com/", {}, "password"),
    ],
)
def test_webhooks_that_are_not_allowed_are_refused_at_once(
    hooked: Settings, tmp_path: Path, url: str, update: dict[str, Any], reason: str
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    with serving(hooked.model_copy(update=update)) as service:
        answer = service.post(clip, webhook=url)
        assert (answer.status_code, reason in answer.json()["detail"]) == (400, True)
        assert service.operations.recent() == []


@pytest.mark.parametrize("secret", ["secret", "whsec_", "whsec_QUFB", "whsec_###", f"{SECRET} short"])
def test_a_weak_or_malformed_secret_is_refused_at_the_start(secret: str) -> None:
    with pytest.raises(ValidationError, match="no webhook secret"):
        Settings(webhook_secret=SecretStr(secret))


@pytest.mark.parametrize("setting", ["webhook_networks", "url_networks"])
def test_a_malformed_network_is_refused_at_the_start(setting: str) -> None:
    with pytest.raises(ValidationError, match="10/8"):
        Settings(**{setting: "10/8"})


def test_pauses_grow_to_about_a_day() -> None:
    backoff = Backoff()
    pauses = [backoff.pause(tries) for tries in range(1, 30)]
    assert 4 <= pauses[0] <= 6
    assert all(pause <= 1.2 * backoff.most for pause in pauses)
    total, tries = 0.0, 0
    while total + pauses[tries] < backoff.until:
        total, tries = total + pauses[tries], tries + 1
    assert 8 <= tries <= 12
    assert total > 16 * 3600
