"""Health, errors, API keys, headers and the API description."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.settings import Settings
from media import jail
from media.jail import LAYERS, missing_layers
from media.sandbox import process
from service.http.app import create_app
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.paths import ROOT
from tests.support.processes import wait_until

DESCRIPTION = ROOT / "service" / "http" / "openapi.json"


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


def test_ready_when_a_worker_is_alive(service: Service) -> None:
    assert service.client.get("/healthz").json()["status"] == "ok"
    assert (service.client.head("/healthz").status_code, service.client.head("/readyz").status_code) == (200, 503)
    answer = service.client.get("/readyz")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/no-worker")
    assert answer.headers["retry-after"] == "5"
    worker = service.announce_worker()
    answer = service.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["workers"][0]["name"] == worker.name
    assert {part["name"]: part["status"] for part in answer.json()["components"]} == {
        f"jail: {layer}": "missing" if layer in missing_layers() else "ok" for layer in LAYERS
    }


def test_readyz_shows_an_incomplete_jail(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_CHILD", ("-c", "pass"))
    jail._logged_layers.cache_clear()
    with serving(settings) as service:
        service.announce_worker()
        components = service.client.get("/readyz").json()["components"]
    jail._logged_layers.cache_clear()
    assert components == [{"name": f"jail: {layer}", "status": "missing"} for layer in LAYERS]


def test_redis_outage(settings: Settings, tmp_path: Path) -> None:
    """Without Redis, uploads are refused before any byte is stored, and /healthz still answers."""
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    with (
        EmbeddedRedis(tmp_path, persist=False) as redis,
        serving(settings.model_copy(update={"redis_url": redis.url})) as service,
    ):
        assert service.post(clip).status_code == 202
        redis.stop()
        for answer in (service.post(clip), service.client.get("/jobs"), service.client.get("/readyz")):
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/store-unavailable")
            assert int(answer.headers["retry-after"]) > 0
        assert service.client.get("/healthz").status_code == 200
        assert sorted(path.name for path in service.files()) == ["input", "job.json"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("PUT", "/upscale", 405), ("POST", "/jobs", 405), ("GET", "/jobs/", 404)],
)
def test_every_error_is_a_problem(service: Service, method: str, path: str, status: int) -> None:
    answer = service.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert path in problem["detail"] or status == 404


def test_crash_reveals_nothing_to_the_client(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    def crash() -> None:
        raise RuntimeError("a secret")

    service.app.add_api_route("/crash", crash)
    answer = service.client.get("/crash", headers={"X-Request-ID": "abc-1"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    assert "abc-1" in answer.json()["detail"]
    assert "a secret" in caplog.text


def test_request_ids(service: Service) -> None:
    given = service.client.get("/healthz", headers={"X-Request-ID": "from-proxy.1"})
    assert given.headers["x-request-id"] == "from-proxy.1"
    made = [service.client.get("/healthz", headers={"X-Request-ID": "no good"}).headers["x-request-id"] for _ in "ab"]
    assert made[0] != made[1]
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in made)


def test_api_key(settings: Settings, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    with serving(settings.model_copy(update={"api_key": SecretStr("s3crét key")})) as service:
        client = service.client
        for public in ("/healthz", "/metrics", "/", "/docs", "/openapi.json"):
            assert client.get(public).status_code == 200, public
        refused = client.get("/jobs")
        assert (refused.status_code, refused.json()["type"]) == (401, "/problems/unauthorized")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        wrong: list[dict[str, str]] = [
            {"Authorization": "Bearer wrong"},
            {"X-API-Key": "s3cret"},
            {"Authorization": "Basic czNjcmV0IGtleQ=="},
            {"Cookie": "skipvsr_read=wrong"},
            {"Cookie": "skipvsr_read=s3cr%C3%A9t%20key"},
        ]
        for headers in wrong:
            assert client.get("/jobs", headers=headers).status_code == 401, headers
        session = client.post("/session", headers={"X-API-Key": "s3crét key".encode()})  # type: ignore[arg-type]
        assert client.post("/session", headers={"X-API-Key": "wrong"}).status_code == 401
        cookie = session.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        client.cookies.clear()
        token = cookie.partition(";")[0]
        assert "s3cr" not in token
        right: list[dict[str, bytes]] = [
            {"Authorization": "Bearer s3crét key".encode()},
            {"X-API-Key": "s3crét key".encode()},
            {"X-API-Key": "s3crét key".encode("latin-1")},
            {"Cookie": token.encode()},
        ]
        for given in right:
            assert client.get("/jobs", headers=given).status_code == 200, given  # type: ignore[arg-type]
        with clip.open("rb") as file:
            cookie_only = client.post("/upscale", files={"file": file}, headers=right[3])  # type: ignore[arg-type]
        assert cookie_only.status_code == 401
        assert service.files() == []


def test_strangers_learn_nothing_about_the_workers(settings: Settings) -> None:
    with serving(settings.model_copy(update={"api_key": SecretStr("secret")})) as service:
        worker = service.announce_worker()
        (shown,) = service.client.get("/readyz").json()["workers"]
        assert (shown["name"], shown["host"], shown["pid"], shown["job"]) == ("", "", 0, None)
        assert shown["device"] == worker.device
        (shown,) = service.client.get("/readyz", headers={"X-API-Key": "secret"}).json()["workers"]
        assert (shown["name"], shown["host"], shown["pid"]) == (worker.name, worker.host, worker.pid)


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/jobs"])
def test_unknown_host_names_read_nothing(service: Service, path: str) -> None:
    service.announce_worker()
    assert service.client.get(path, headers={"Host": "evil.test"}).status_code == 403
    assert service.client.get(path).status_code == 200


def test_a_download_survives_the_removal_of_its_job(service: Service, tmp_path: Path) -> None:
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=2)).json()["id"]
    service.finish(job_id, bytes(8 << 20))
    for headers in ({}, {"Range": "bytes=0-"}, {"Range": "bytes=0-3000000,5000000-8000000"}):
        with service.client.stream("GET", f"/jobs/{job_id}/result", headers=headers) as answer:
            chunks = answer.iter_raw(1000)
            size = len(next(chunks))
            if len(headers.get("Range", "")) > 9:
                service.operations.remove(job_id)
            assert size + sum(map(len, chunks)) == int(answer.headers["content-length"])


def test_a_file_that_vanishes_before_its_download_is_gone(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=2)).json()["id"]
    service.finish(job_id, b"result")
    path = service.operations.storage.result_path(job_id)
    opened = os.open

    def late(name: Any, *given: Any, **more: Any) -> int:
        if name in (path, path.name):
            path.unlink()
        return opened(name, *given, **more)

    monkeypatch.setattr(os, "open", late)
    answer = service.client.get(f"/jobs/{job_id}/result")
    assert (answer.status_code, answer.json()["type"]) == (410, "/problems/gone")


def test_other_web_sites_cannot_post(service: Service, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    service.client.headers["Sec-Fetch-Site"] = "cross-site"
    assert service.post(clip).status_code == 403
    assert service.client.get("/jobs").status_code == 200
    service.client.headers["Sec-Fetch-Site"] = "same-origin"
    assert service.post(clip).status_code == 202


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://nas.lan:8000", "nas.lan:8000", 404),
        ("http://NAS.lan", "nas.lan", 404),
        ("https://nas.lan", "nas.lan:443", 404),
        ("https://video.example", "10.0.0.1:8000", 404),  # a proxy that does not pass the Host header
        ("http://evil.test", "nas.lan:8000", 403),
        ("http://evil.test:8000", "nas.lan:8000", 403),
        ("http://nas.lan:9000", "nas.lan:8000", 403),
        ("http://nas.lan.evil.test", "nas.lan", 403),
        ("null", "nas.lan:8000", 403),
        ("null", "null", 403),
        ("", "nas.lan:8000", 403),
        ("file://", "nas.lan:8000", 403),
    ],
)
def test_requests_with_a_foreign_origin_change_nothing(settings: Settings, origin: str, host: str, status: int) -> None:
    """Over plain HTTP, browsers send Origin but no Sec-Fetch-Site."""
    with serving(settings.model_copy(update={"http_names": "video.example"})) as service:
        headers = {"Origin": origin, "Host": host}
        for method, path in [("POST", "/jobs/0123456789abcdef/cancel"), ("DELETE", "/jobs/0123456789abcdef")]:
            answer = service.client.request(method, path, headers=headers)
            assert answer.status_code == status, answer.text
        upload = service.client.post("/upscale", headers=headers)
        assert upload.status_code == (403 if status == 403 else 400)
        assert service.client.get("/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.1.7", 200),
        ("nas", 200),
        ("nas.local:8000", 200),
        ("upscale.example.com", 200),
        ("evil.example.net:8000", 403),
        ("127.0.0.1.nip.io", 403),
        ("nas.home.arpa", 200),
        ("a.7.2.0.192.in-addr.arpa", 403),
        ("[evil.example.net", 403),
    ],
)
def test_unknown_public_host_names_are_refused(settings: Settings, host: str, status: int) -> None:
    """DNS rebinding: a web site points its own name at this server, and browsers treat both as one site."""
    with serving(settings.model_copy(update={"http_names": "other.example.com, upscale.example.com"})) as service:
        answer = service.client.get("/jobs", headers={"Host": host})
        assert answer.status_code == status
        assert status == 200 or "SKIPVSR_HTTP_NAMES=" in answer.json()["detail"]
        assert service.client.get("/healthz", headers={"Host": host}).status_code == 200
    with serving(settings.model_copy(update={"api_key": SecretStr("k")})) as service:
        given = {"Host": host, "X-API-Key": "k"}
        assert service.client.get("/jobs", headers=given).status_code == 200, (
            "the API key makes the host name irrelevant"
        )


def test_description_is_current() -> None:
    """openapi.json equals the application's description; `python -m service.http.describe` writes the file."""
    app = create_app(Settings(redis_url="redis://127.0.0.1:1"))
    assert json.loads(DESCRIPTION.read_text(encoding="utf-8")) == app.openapi()


def test_served_description_documents_errors(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            default = operation["responses"]["default"]["content"]
            assert default == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}, (
                path,
                method,
            )
    form = document["components"]["schemas"]["UpscaleForm"]
    assert form["properties"]["file"]["format"] == "binary"
    assert {"file", "upload", "model", "scale", "height", "chunk", "lookahead", "routing", "codec", "crf"} <= set(
        form["properties"]
    )
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


def test_description_suits_generators_of_clients(service: Service) -> None:
    """A request may leave fields out and never sends null; a response has all fields; no operation demands a key."""
    document = service.client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    form = schemas["UpscaleForm"]
    assert form["properties"]["file"] == {"type": "string", "format": "binary", "description": "The video."}
    assert (form["properties"]["scale"]["type"], form["properties"]["scale"]["enum"]) == ("integer", [2, 3, 4])
    assert form["properties"]["crf"]["description"].endswith("Default: 18.")
    assert not any("default" in field or "anyOf" in field for field in form["properties"].values())
    assert set(schemas["JobDocument"]["required"]) == set(schemas["JobDocument"]["properties"])
    result = document["paths"]["/jobs/{job_id}/result"]["get"]["responses"]["200"]["content"]
    assert result["application/octet-stream"] == {"schema": {"type": "string", "format": "binary"}}
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)
    assert document["security"] == [{"HTTPBearer": []}, {"APIKeyHeader": []}, {}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "security" not in document["paths"]["/jobs"]["get"]
    assert document["servers"][0]["url"] == "/"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_other_hosts(service: Service, path: str) -> None:
    answer = service.client.get(path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src 'self'" in policy
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', answer.text)
    assert httpx.head(service.url + path).status_code == 200
    for linked in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        assert service.client.get(linked).status_code == 200


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("page/main.js", "text/javascript; charset=utf-8"),
        ("page/base.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_static_files(service: Service, path: str, media_type: str) -> None:
    """A browser asks for each file again, and gets it again only if it has changed."""
    answer = service.client.get(f"/static/{path}")
    assert answer.headers["content-type"] == media_type
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    again = service.client.get(f"/static/{path}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"
    assert service.client.head(f"/static/{path}").headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize(
    "path", ["", "page", "page/", "index.html", "none.js", "..%2f__init__.py", "../app.py", "%00.js"]
)
def test_static_files_end_at_their_folder(service: Service, path: str) -> None:
    """Pages are served at their own addresses only, with their policy."""
    assert service.client.get(f"/static/{path}").status_code == 404


def test_path_cannot_forge_log_lines(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "service.http.access"):
        service.client.get("/x%0AINFO forged%1b[31m")
        wait_until(lambda: "forged" in caplog.text, 60, "no line")  # written after the response
    (line,) = [r.getMessage() for r in caplog.records if "forged" in r.getMessage()]
    assert line.startswith("GET /x%0AINFO%20forged%1B%5B31m 404 ")
