"""API keys over HTTP: every route with every kind of key, limits, revocation, cookies, the audit log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from jobs.schema import JobState
from jobs.settings import Settings
from service.http.app import create_app
from service.http.auth import COOKIE
from tests.support.api_keys import KINDS, Keys, job_of, make_keys, upload_of
from tests.support.http_keys import ask
from tests.support.http_server import Service, serving
from tests.support.processes import wait_until

PROBLEMS = {401: "unauthorized", 403: "forbidden", 404: "not-found"}
NO_KEY = {"none": 401, "wrong": 401, "revoked": 401, "expired": 401}


def public(status: int = 200) -> dict[str, int]:
    return dict.fromkeys(KINDS, status)


def any_key(status: int = 200) -> dict[str, int]:
    return public(status) | NO_KEY


def reading(*, of_job: bool) -> dict[str, int]:
    return any_key() | {"submit": 403} | ({"other": 404} if of_job else {})


def changing() -> dict[str, int]:
    return any_key() | {"read": 403, "other": 404}


TABLE: dict[tuple[str, str], dict[str, int]] = {
    ("GET", "/"): public(),
    ("GET", "/docs"): public(),
    ("GET", "/openapi.json"): public(),
    ("HEAD", "/openapi.json"): public(),
    ("GET", "/favicon.ico"): public(204),
    ("GET", "/healthz"): public(),
    ("GET", "/readyz"): public(),
    ("GET", "/metrics"): public(),
    ("GET", "/static/{path:path}"): public(),
    ("GET", "/session"): any_key(),
    ("GET", "/problems"): public(),
    ("GET", "/problems/{kind}"): public(),
    ("POST", "/session"): any_key(204),
    ("GET", "/models"): any_key(),
    ("GET", "/workers"): any_key(),
    ("POST", "/estimate"): any_key(400) | {"read": 403},
    ("POST", "/upscale"): any_key(202) | {"read": 403},
    ("PUT", "/upscale/{filename:path}"): any_key(202) | {"read": 403},
    ("OPTIONS", "/uploads"): public(204),
    ("OPTIONS", "/uploads/{upload_id}"): public(204),
    ("POST", "/uploads"): any_key(201) | {"read": 403},
    ("HEAD", "/uploads/{upload_id}"): changing(),
    ("PATCH", "/uploads/{upload_id}"): {kind: 204 if status == 200 else status for kind, status in changing().items()},
    ("POST", "/uploads/{upload_id}"): changing(),
    ("DELETE", "/uploads/{upload_id}"): {kind: 204 if status == 200 else status for kind, status in changing().items()},
    ("GET", "/jobs"): reading(of_job=False),
    ("GET", "/metrics/jobs"): reading(of_job=False),
    ("GET", "/events"): reading(of_job=False),
    ("GET", "/jobs/{job_id}/events"): reading(of_job=True),
    ("GET", "/jobs/{job_id}/preview"): reading(of_job=True),
    ("GET", "/jobs/{job_id}"): reading(of_job=True),
    ("GET", "/jobs/{job_id}/result"): reading(of_job=True),
    ("HEAD", "/jobs/{job_id}/result"): reading(of_job=True),
    ("GET", "/jobs/{job_id}/input"): reading(of_job=True),
    ("HEAD", "/jobs/{job_id}/input"): reading(of_job=True),
    ("GET", "/jobs/{job_id}/report"): reading(of_job=True),
    ("GET", "/jobs/{job_id}/skipmap"): reading(of_job=True),
    ("POST", "/jobs/{job_id}/cancel"): changing(),
    ("POST", "/jobs/{job_id}/pause"): changing(),
    ("POST", "/jobs/{job_id}/resume"): changing(),
    ("DELETE", "/jobs/{job_id}"): changing(),
}
"""Expected status of each route for each kind of key."""
STATES = {"/cancel": JobState.QUEUED, "/pause": JobState.QUEUED, "/resume": JobState.PAUSED}
"""States of the job that a route changes; all others get a finished job."""


@pytest.fixture
def service(settings: Settings, keys: Keys) -> Iterator[Service]:
    with serving(settings) as running:
        running.announce_worker()
        yield running


def test_every_route_has_a_row(settings: Settings) -> None:
    routes = {
        (method, route.path) for route in iter_route_contexts(create_app(settings).routes) for method in route.methods
    }
    assert set(TABLE) == routes
    assert all(set(row) == set(KINDS) for row in TABLE.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_route_with_every_kind_of_key(service: Service, keys: Keys, clip: Path, kind: str) -> None:
    store, storage = service.operations.store, service.operations.storage
    found = {}
    for method, route in TABLE:
        state = STATES.get(route.removeprefix("/jobs/{job_id}"), JobState.DONE)
        job_id = job_of(keys.owner(kind), state, store, storage, clip) if "{job_id}" in route else ""
        upload_id = upload_of(keys.owner(kind), store, storage) if "{upload_id}" in route else ""
        path = route.replace("{path:path}", "icon.svg").replace(":path", "")
        path = path.format(job_id=job_id, upload_id=upload_id, filename="clip.mp4", kind="gone")
        answer = ask(service, method, path, keys.text(kind), clip if route.startswith("/upscale") else None)
        found[method, route] = answer.status_code
        if answer.status_code in PROBLEMS and method != "HEAD":
            assert answer.json()["type"] == f"/problems/{PROBLEMS[answer.status_code]}"
    assert found == {route: row[kind] for route, row in TABLE.items()}


def test_jobs_of_others_are_unknown(service: Service, keys: Keys, clip: Path) -> None:
    """Answers about another key's job and about no job differ in the id only; lists hold own jobs only."""
    store, storage = service.operations.store, service.operations.storage
    jobs = {kind: job_of(keys.ids[kind], JobState.DONE, store, storage, clip) for kind in ("own", "other", "read")}
    unknown = "0" * 24
    for method, route in TABLE:
        if "{job_id}" in route:
            theirs = ask(service, method, route.format(job_id=jobs["own"]), keys.text("other"))
            nobodys = ask(service, method, route.format(job_id=unknown), keys.text("other"))
            assert theirs.status_code == nobodys.status_code == 404
            assert theirs.text.replace(jobs["own"], unknown) == nobodys.text
            same = [
                {k: v for k, v in a.headers.items() if k not in ("x-request-id", "date")} for a in (theirs, nobodys)
            ]
            assert same[0] == same[1]
    for path in ("/jobs", "/jobs?state=done", "/metrics/jobs"):
        for kind in ("own", "other", "read"):
            assert [job["id"] for job in ask(service, "GET", path, keys.text(kind)).json()["jobs"]] == [jobs[kind]]
        assert len(ask(service, "GET", path, keys.text("admin")).json()["jobs"]) == 3
    beyond = ask(service, "GET", "/jobs?offset=1", keys.text("own")).json()
    assert (beyond["jobs"], beyond["total"], beyond["counts"]["done"]) == ([], 1, 1)
    assert ask(service, "GET", f"/jobs/{jobs['own']}", keys.text("own")).json()["owner"] == keys.ids["own"]


def test_the_settings_key_is_an_administrators_key(settings: Settings, keys: Keys, clip: Path) -> None:
    with serving(settings.model_copy(update={"api_key": SecretStr("sesame")})) as service:
        worker = service.announce_worker(machine="EPYC")
        own = ask(service, "POST", "/upscale", keys.text("own"), clip).json()["id"]
        admins = ask(service, "POST", "/upscale", "sesame", clip).json()["id"]
        assert {job["id"] for job in ask(service, "GET", "/jobs", "sesame").json()["jobs"]} == {own, admins}
        assert ask(service, "GET", f"/jobs/{admins}", keys.text("own")).status_code == 404
        assert ask(service, "DELETE", f"/jobs/{own}", "sesame").status_code == 200
        for key, name in (("sesame", worker.name), (keys.text("admin"), worker.name), (keys.text("own"), "")):
            shown = ask(service, "GET", "/readyz", key).json()["workers"][0]
            assert (shown["name"], shown["machine"]) == (name, "EPYC" if name else "")


def test_a_change_of_keys_takes_effect_at_once(settings: Settings, data_dir: Path) -> None:
    """The first key closes an open server; a revoked key, the last one too, leaves the server closed."""
    with serving(settings) as service:
        assert ask(service, "GET", "/jobs", "").status_code == 200
        keys = make_keys(data_dir)
        assert ask(service, "GET", "/jobs", "").status_code == 401
        assert ask(service, "GET", "/jobs", keys.text("own")).status_code == 200
        for kind in ("own", "other", "read", "submit", "admin"):
            keys.file.revoke(kind)
        refused = ask(service, "GET", "/jobs", keys.text("own"))
        assert (refused.status_code, "revoked" in refused.json()["detail"]) == (401, True)
        assert ask(service, "GET", "/jobs", "").status_code == 401


def test_a_key_that_is_revoked_during_its_upload_queues_no_job(service: Service, keys: Keys, clip: Path) -> None:
    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="clip.mp4"\r\n\r\n'
        keys.file.revoke("own")
        yield clip.read_bytes() + b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b", "X-API-Key": keys.text("own")}
    answer = service.client.post("/upscale", content=body(), headers=headers)
    assert (answer.status_code, "revoked" in answer.json()["detail"]) == (401, True)
    assert service.operations.recent() == []
    assert [path for path in service.files() if path.suffix == ".part"] == []


@pytest.mark.parametrize(
    "text", ['{"keys": [', "[]", '{"version": 2, "keys": []}', '{"keys": [{"id": "00000000"}]}', ""]
)
def test_a_damaged_file_closes_the_server(
    settings: Settings, keys: Keys, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(settings.model_copy(update={"api_key": SecretStr("sesame")})) as service:
        keys.file.path.write_text(text)
        assert ask(service, "GET", "/jobs", "").status_code == 401
        for key in (keys.text("own"), "wrong"):
            answer = ask(service, "GET", "/jobs", key)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/keys-unreadable")
        assert ask(service, "GET", "/jobs", "sesame").status_code == 200
        assert str(keys.file.path) in caplog.text
        assert str(keys.file.path) not in ask(service, "GET", "/jobs", keys.text("own")).text


def test_a_file_that_vanishes_leaves_the_server_closed(service: Service, keys: Keys) -> None:
    assert ask(service, "GET", "/jobs", keys.text("own")).status_code == 200
    keys.file.path.rename(keys.file.path.with_name("away"))
    assert ask(service, "GET", "/jobs", "").status_code == 401
    assert ask(service, "GET", "/jobs", keys.text("own")).status_code == 503
    keys.file.path.with_name("away").rename(keys.file.path)
    assert ask(service, "GET", "/jobs", keys.text("own")).status_code == 200


def test_two_keys_may_use_the_same_idempotency_key(service: Service, keys: Keys, clip: Path) -> None:
    header = {"Idempotency-Key": "mine"}
    first, other = (ask(service, "POST", "/upscale", keys.text(kind), clip, **header) for kind in ("own", "other"))
    assert (first.status_code, other.status_code) == (202, 202)
    assert first.json()["id"] != other.json()["id"]
    again = ask(service, "POST", "/upscale", keys.text("own"), clip, **header)
    assert (again.json()["id"], again.headers["idempotency-replayed"]) == (first.json()["id"], "true")


def test_the_cookie_belongs_to_its_key(service: Service, keys: Keys, clip: Path) -> None:
    store, storage = service.operations.store, service.operations.storage
    jobs = {kind: job_of(keys.ids[kind], JobState.DONE, store, storage, clip) for kind in ("own", "other")}
    cookies = {}
    for kind in ("own", "other"):
        session = ask(service, "POST", "/session", keys.text(kind))
        cookies[kind] = session.headers["set-cookie"].partition(";")[0]
        service.client.cookies.clear()
        assert "HttpOnly" in session.headers["set-cookie"]
        assert keys.text(kind) not in cookies[kind]
    stored = keys.file.path.read_text()
    for kind, other in (("own", "other"), ("other", "own")):
        token = cookies[kind].partition(".")[2]
        assert token not in stored, "whoever reads the file could make a cookie"
        for path, status in ((jobs[kind], 200), (jobs[other], 404)):
            assert service.client.get(f"/jobs/{path}/result", headers={"Cookie": cookies[kind]}).status_code == status
        assert service.client.delete(f"/jobs/{jobs[kind]}", headers={"Cookie": cookies[kind]}).status_code == 401
    digest = json.loads(stored)["keys"][4]["cookie_sha256"]
    forged = f"{COOKIE}={keys.ids['own']}.{digest}"
    swapped = f"{COOKIE}={keys.ids['other']}.{cookies['own'].partition('.')[2]}"
    for cookie in (forged, swapped):
        assert service.client.get("/jobs", headers={"Cookie": cookie}).status_code == 401
    keys.file.revoke("own")
    assert service.client.get("/jobs", headers={"Cookie": cookies["own"]}).status_code == 401


def test_contradicting_keys_are_refused(service: Service, keys: Keys) -> None:
    own, other = keys.text("own"), keys.text("other")
    cookie = {"Cookie": ask(service, "POST", "/session", own).headers["set-cookie"].partition(";")[0]}
    service.client.cookies.clear()

    def status(*headers: tuple[str, str]) -> int:
        return service.client.get("/jobs", headers=list(headers)).status_code

    assert status(("X-API-Key", own), ("Authorization", f"Bearer {own}")) == 200
    assert status(("X-API-Key", own), ("Authorization", "Bearer another program's key")) == 200
    assert status(("X-API-Key", own), ("Authorization", f"Bearer {other}")) == 401
    assert status(("Authorization", f"Bearer {own}"), ("Authorization", f"Bearer {other}")) == 401
    assert status(("X-API-Key", "wrong"), *cookie.items()) == 401, "the cookie stands in for a wrong key"
    assert status(("Authorization", "Bearer another program's key"), *cookie.items()) == 200


def test_the_audit_log(service: Service, keys: Keys, clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "skipvsr.audit"):
        job_id = ask(service, "POST", "/upscale", keys.text("own"), clip).json()["id"]
        ask(service, "POST", f"/jobs/{job_id}/cancel", keys.text("other"))
        ask(service, "DELETE", f"/jobs/{job_id}", keys.text("wrong"))
        ask(service, "POST", "/nowhere%0Aforged%1b[31m%E2%80%AE", "")
        ask(service, "GET", "/jobs", keys.text("own"))
        wait_until(lambda: "forged" in caplog.text, 60, "no line")
    lines = [record for record in caplog.records if record.name == "skipvsr.audit"]
    own, other = ((keys.ids[kind], kind) for kind in ("own", "other"))
    told = [(r.method, r.route, r.status, r.job_id, (r.key_id, r.key_name)) for r in lines]  # type: ignore[attr-defined]
    assert told[:3] == [
        ("POST", "/upscale", 202, job_id, own),
        ("POST", "/jobs/{job_id}/cancel", 404, job_id, other),
        ("DELETE", "/jobs/{job_id}", 401, job_id, ("", "")),
    ]
    assert told[3][2] == 404
    assert lines[0].bytes > clip.stat().st_size  # type: ignore[attr-defined]
    assert all(r.remote == "127.0.0.1" and r.request_id for r in lines)  # type: ignore[attr-defined]
    assert all(r.getMessage().isprintable() for r in lines)
    assert "svk_" not in " ".join(r.getMessage() for r in lines)
    assert f"key_id={keys.ids['own']} key_name=own" in lines[0].getMessage()


def test_a_key_that_only_submits_can_upload_and_cancel(service: Service, keys: Keys, clip: Path) -> None:
    answer = ask(service, "POST", "/upscale", keys.text("submit"), clip)
    assert ask(service, "POST", answer.json()["links"]["cancel"], keys.text("submit")).json()["state"] == "cancelled"
    lacking = ask(service, "GET", answer.json()["links"]["self"], keys.text("submit"))
    assert (lacking.status_code, "scope read" in lacking.json()["detail"]) == (403, True)
