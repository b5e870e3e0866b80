"""Event streams: what clients see of their jobs, after lost connections too, and the limits of streams."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from jobs.schema import Job, JobOptions, JobState, Progress
from jobs.settings import Settings
from jobs.storage import new_id
from jobs.store import Claim
from service.http.auth import COOKIE
from tests.support.api_keys import make_keys
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until


class Events:
    """Reader of a stream's events in a thread."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.found: list[tuple[str, Any]] = []
        self.comments: list[str] = []
        self.last_id = ""
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        event: dict[str, str] = {}
        try:
            for line in self.response.iter_lines():
                if line.startswith(":"):
                    self.comments.append(line)
                elif line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                else:
                    self._dispatch(event)
                    event = {}
        except httpx.HTTPError:
            pass
        self.ended.set()

    def _dispatch(self, event: dict[str, str]) -> None:
        self.last_id = event.get("id", self.last_id)
        if "data" in event:
            self.found.append((event["event"], json.loads(event["data"])))

    def states(self) -> list[str]:
        return [data["state"] for name, data in self.found if name == "job"]

    def wait(self, count: int, seconds: float = 60) -> list[tuple[str, Any]]:
        wait_until(lambda: len(self.found) >= count, seconds, f"{count} events expected: {self.found}")
        return self.found


@contextmanager
def listening(service: Service, path: str, **headers: str) -> Iterator[Events]:
    with service.client.stream("GET", path, headers=headers, timeout=60) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        events = Events(response)
        try:
            yield events
        finally:
            with suppress(OSError):  # the server has closed the connection
                response.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            events.ended.wait(60)


@pytest.fixture(scope="module")
def _module_settings(redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    data = tmp_path_factory.mktemp("events")
    return Settings(redis_url=redis_server.url, data_dir=data, http_port=0, model="tiny", _env_file=None)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def shared(_module_settings: Settings) -> Iterator[Service]:
    with serving(_module_settings) as running:
        yield running


@pytest.fixture
def service(shared: Service) -> Service:
    """The module's service with an empty Redis."""
    shared.operations.store.redis.flushall()
    wait_until(lambda: not len(shared.app.state.streams), 60, "streams of the last test")
    return shared


def create(service: Service, owner: str = "") -> str:
    job = Job(id=new_id(), owner=owner, filename="clip.mp4", options=JobOptions())
    service.operations.store.create(job)
    return job.id


def claimed(service: Service, job_id: str) -> Claim:
    claim = service.operations.store.claim(job_id, "worker")
    assert claim
    return claim


def test_a_job_stream_shows_the_state_at_once_and_every_change(service: Service) -> None:
    store, job_id = service.operations.store, create(service)
    with listening(service, f"/jobs/{job_id}/events") as events:
        events.wait(1)
        assert events.found[0][1] == service.client.get(f"/jobs/{job_id}").json()
        claim = claimed(service, job_id)
        events.wait(2)
        store.release(claim, JobState.DONE)
        events.wait(3)
        service.client.delete(f"/jobs/{job_id}")
        assert events.wait(4)[3] == ("removed", {"id": job_id})
        assert events.ended.wait(60)
    assert events.states() == ["queued", "running", "done"]
    assert service.client.get(f"/jobs/{job_id}/events").status_code == 404


def test_head_answers_at_once(service: Service) -> None:
    job_id = create(service)
    for path in ("/events", f"/jobs/{job_id}/events"):
        answer = service.client.head(path, timeout=60)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
    wait_until(lambda: not len(service.app.state.streams), 60, "closed streams")


def test_places_in_the_queue_are_told_again_when_another_job_leaves(service: Service) -> None:
    first, second = create(service), create(service)
    with listening(service, f"/jobs/{second}/events") as events:
        assert events.wait(1)[0][1]["queue"]["position"] == 2
        service.operations.store.request_cancel(first)
        wait_until(lambda: events.found[-1][1]["queue"]["position"] == 1, 60, "the new place")
    assert len(events.found) < 4


def test_at_most_four_events_a_second_and_the_last_one_is_the_newest(service: Service) -> None:
    store, job_id = service.operations.store, create(service)
    claim = claimed(service, job_id)
    with listening(service, "/events") as events:
        events.wait(1)
        started = time.monotonic()
        number = 0
        while time.monotonic() - started < 1:
            number += 1
            store.heartbeat(claim, {"progress": Progress(frames_done=number)})
            time.sleep(0.005)
        wait_until(lambda: events.found[-1][1]["progress"]["frames_done"] == number, 60, "the newest progress")
        took = time.monotonic() - started
    assert len(events.found) <= 2 + 4 * took  # the state at the start, and a first change at once


def test_a_reconnect_misses_no_final_state_and_no_removal(service: Service) -> None:
    store = service.operations.store
    finishing, removed, idle = (create(service) for _ in range(3))
    with listening(service, "/events") as events:
        events.wait(3)
        wait_until(lambda: bool(events.last_id), 60, "an id")
    store.release(claimed(service, finishing), JobState.DONE)
    store.request_cancel(removed)
    store.forget(removed)
    with listening(service, "/events", **{"Last-Event-ID": events.last_id}) as again:
        found = again.wait(2)
    assert sorted((name, data["id"]) for name, data in found) == [("job", finishing), ("removed", removed)]
    assert idle not in {data["id"] for _, data in found}


@pytest.mark.parametrize("number", ["", "nonsense", "-1", "9" * 30, "9" * 17, "1.5"])
def test_without_a_usable_number_a_stream_begins_with_the_active_jobs(service: Service, number: str) -> None:
    active, done = create(service), create(service)
    service.operations.store.release(claimed(service, done), JobState.DONE)
    with listening(service, "/events", **{"Last-Event-ID": number}) as events:
        assert events.wait(1)[0][1]["id"] == active
        other = create(service)
        wait_until(lambda: events.found[-1][1]["id"] == other, 60, "the new job")
    assert {data["id"] for _, data in events.found} <= {active, done, other}  # the end of `done` may just have come


def test_streams_show_only_the_jobs_of_their_key(settings: Settings, data_dir: Path) -> None:
    keys = make_keys(data_dir)
    with serving(settings) as service:
        with (
            listening(service, "/events", **{"X-API-Key": keys.text("own")}) as own,
            listening(service, "/events", **{"X-API-Key": keys.text("admin")}) as admin,
        ):
            mine, theirs = create(service, keys.ids["own"]), create(service, keys.ids["other"])
            admin.wait(2)
            service.client.post(f"/jobs/{theirs}/cancel", headers={"X-API-Key": keys.text("admin")})
            service.client.delete(f"/jobs/{theirs}", headers={"X-API-Key": keys.text("admin")})
            wait_until(lambda: ("removed", {"id": theirs}) in admin.found, 60, "the removal")
            service.operations.store.request_pause(mine)
            own.wait(2)
            assert {data["id"] for _, data in own.found} == {mine}
            last = own.last_id
        service.operations.store.request_cancel(mine)
        with listening(service, "/events", **{"X-API-Key": keys.text("own"), "Last-Event-ID": "1"}) as again:
            again.wait(1)
            time.sleep(0.3)
            assert {data["id"] for _, data in again.found} == {mine}
        assert last


def test_the_pages_cookie_opens_a_stream_and_a_revoked_key_ends_its_streams(settings: Settings, data_dir: Path) -> None:
    keys = make_keys(data_dir)
    with serving(settings) as service:
        session = service.client.post("/session", headers={"X-API-Key": keys.text("own")})
        cookie = f"{COOKIE}={session.cookies[COOKIE]}"
        service.client.cookies.clear()
        with listening(service, "/events", Cookie=cookie) as events:
            create(service, keys.ids["own"])
            events.wait(1)
            keys.file.revoke("own")
            assert events.ended.wait(60)
        assert service.client.get("/events", headers={"Cookie": cookie}).status_code == 401


def test_streams_have_limits_of_their_own(settings: Settings, data_dir: Path) -> None:
    keys = make_keys(data_dir)
    limits = {"http_max_streams": 3, "http_max_key_streams": 2, "http_max_connections": 2}
    with serving(settings.model_copy(update=limits)) as service:
        own, admin = ({"X-API-Key": keys.text(kind)} for kind in ("own", "admin"))
        with listening(service, "/events", **own), listening(service, "/events", **own):
            refused = service.client.get("/events", headers=own)
            assert (refused.status_code, refused.json()["type"]) == (503, "/problems/too-many-streams")
            assert int(refused.headers["Retry-After"]) > 0
            assert "SKIPVSR_HTTP_MAX_KEY_STREAMS" in refused.json()["detail"]
            with listening(service, "/events", **admin):
                refused = service.client.get("/events", headers=admin)
                assert "SKIPVSR_HTTP_MAX_STREAMS" in refused.json()["detail"]
                # Three streams are more than all connections, and requests still find room.
                with httpx.Client(base_url=service.url) as other:
                    assert other.get("/jobs", headers=admin).status_code == 200
        wait_until(lambda: not len(service.app.state.streams), 60, "closed streams")
        with listening(service, "/events", **own):
            pass


def test_the_end_of_the_server_ends_streams_at_once(settings: Settings) -> None:
    with serving(settings, grace=600) as service, listening(service, "/events") as events:
        wait_until(lambda: bool(events.last_id), 60, "the start")
        service.stop()
        assert events.ended.wait(60), "the stream has as long to end as a download"


def test_a_loss_of_redis_is_told_and_the_stream_goes_on(service: Service, redis: Redis) -> None:
    job_id = create(service)
    with listening(service, "/events") as events:
        events.wait(1)
        wait_until(lambda: redis.pubsub_numsub("skipvsr:events")[0][1] > 0, 60, "the subscription")
        redis.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")
        service.operations.store.request_pause(job_id)  # while nobody listens
        wait_until(lambda: "paused" in events.states(), 60, "the change in between")
        assert ("unavailable", 503) in [(name, data.get("status")) for name, data in events.found]
        service.operations.store.request_cancel(job_id)
        wait_until(lambda: events.states()[-1] == "cancelled", 60, "the change after")


def test_a_client_that_reads_nothing_is_dropped(settings: Settings) -> None:
    with serving(settings.model_copy(update={"download_idle_seconds": 1.0})) as service:
        jobs = [create(service) for _ in range(40)]
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", service.port))
            client.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            wait_until(lambda: len(service.app.state.streams) == 1, 60, "the stream")
            claims = [claimed(service, job_id) for job_id in jobs]
            warnings = ["x" * 20_000]
            deadline = time.monotonic() + 60
            while len(service.app.state.streams) and time.monotonic() < deadline:
                for claim in claims:
                    service.operations.store.heartbeat(claim, {"warnings": warnings})
                time.sleep(0.1)
        assert not len(service.app.state.streams)
