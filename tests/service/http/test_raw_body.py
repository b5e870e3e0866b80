"""Videos as the body of a request: curl -T, POST with a media type, options in the query."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from subprocess import run

import pytest

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.settings import Settings
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=2)


@pytest.fixture(scope="module")
def service(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("data")
    with serving(Settings(redis_url=redis_server.url, data_dir=folder, max_upload_bytes=1 << 20)) as running:
        running.operations.store.redis.flushall()
        yield running


@pytest.mark.parametrize(
    ("method", "path", "content_type", "name"),
    [
        ("PUT", "/upscale/clip.mp4", None, "clip.mp4"),
        ("PUT", "/upscale/Zw%C3%B6lf%20%E2%80%93.mov", "video/quicktime", "Zwölf –.mov"),
        ("PUT", "/upscale/..%2F..%2Fetc%2Fa.mp4", None, "a.mp4"),
        ("PUT", "/upscale/", None, "video"),
        ("PUT", "/upscale/a.mp4", "application/json", "a.mp4"),
        ("POST", "/upscale?filename=x.mp4", None, "x.mp4"),
        ("POST", "/upscale?filename=x.mp4", "application/x-www-form-urlencoded", "x.mp4"),
        ("POST", "/upscale", "video/mp4", "video"),
    ],
)
def test_the_body_is_the_file(
    service: Service, clip: Path, method: str, path: str, content_type: str | None, name: str
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    data = clip.read_bytes()
    answer = service.client.request(
        method, path, content=data, headers=headers, params={"scale": "2", "crf": "20"} if "?" not in path else None
    )
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["filename"] == name
    assert (job["options"]["scale"], job["options"]["crf"]) == ((None, 18) if "?" in path else (2, 20))
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert service.client.get(job["links"]["input"]).content == data


def test_curl_sends_a_file(service: Service, clip: Path) -> None:
    before = {job["id"] for job in service.client.get("/jobs").json()["jobs"]}
    run(["curl", "-fsS", "-T", str(clip), f"{service.url}/upscale/?crf=20"], capture_output=True, check=True)
    with clip.open("rb") as file:  # chunked: the size is not announced
        command = ["curl", "-fsS", "-T", "-", f"{service.url}/upscale/b.mp4?crf=30"]
        run(command, stdin=file, capture_output=True, check=True)
    made = [job for job in service.client.get("/jobs").json()["jobs"] if job["id"] not in before]
    found = {job["filename"]: job["options"]["crf"] for job in made}
    assert found == {"clip.mp4": 20, "b.mp4": 30}


def test_a_repeated_body_is_the_same_job(service: Service, clip: Path) -> None:
    def put(data: bytes, **options: str) -> tuple[int, str]:
        answer = service.client.put("/upscale/a.mp4", content=data, params=options, headers={"Idempotency-Key": "mine"})
        return answer.status_code, answer.json().get("id", "")

    first = put(clip.read_bytes())
    assert first[0] == 202
    assert put(clip.read_bytes()) == first
    assert put(clip.read_bytes(), crf="30")[0] == 422
    assert put(clip.read_bytes() + b"x")[0] == 422


@pytest.mark.parametrize(
    ("path", "data", "status", "says"),
    [
        ("/upscale/a.mp4", b"", 400, "contains no file"),
        ("/upscale/a.mp4?skale=2", b"1", 400, "unknown option skale"),
        ("/upscale/a.mp4?crf=1&crf=2", b"1", 400, "given twice"),
        ("/upscale/a.mp4?upload=0", b"1", 400, "more than one video"),
        ("/upscale/a.mp4", b"no video", 415, ""),
        ("/upscale/a.mp4", bytes((1 << 20) + 1), 413, "SKIPVSR_MAX_UPLOAD_BYTES"),
        ("/upscale/a.mp4", bytes(4 << 20), 413, "SKIPVSR_MAX_UPLOAD_BYTES"),
    ],
)
def test_refused_bodies_leave_nothing(service: Service, path: str, data: bytes, status: int, says: str) -> None:
    for content in (data, iter([data])):
        answer = service.client.put(path, content=content)
        assert answer.status_code == status, answer.text
        assert says in answer.json()["detail"]
    assert list(service.operations.storage.uploads.iterdir()) == []


@pytest.mark.parametrize(
    ("content_type", "data", "says"),
    [
        ("application/json", b"{", "no JSON document"),
        ("application/json", b"[]", "no JSON object"),
        ("application/json", b"[" * 60_000, "no JSON document"),
        ("application/json", b'{"upload": ["a"]}', "upload: text or a number"),
        ("application/json", rb'{"\ud800": 1, "url": "http://a/"}', "half of a character"),
        ("application/json", rb'{"\ud800": []}', "half of a character"),
        ("application/json", rb'{"webhook": "\udfff", "upload": "a"}', "half of a character"),
        ("application/json", b'{"scale": 2}', "contains no file"),
        ("application/json", b" " * 70_000, "longer than"),
        ("application/x-www-form-urlencoded", b"\xff\xfe", "no UTF-8"),
        ("application/x-www-form-urlencoded", b"a=1&" * 40, "more than 32 fields"),
        ("application/x-www-form-urlencoded", b"crf=1&crf=2", "given twice"),
    ],
)
def test_malformed_bodies_without_a_file(service: Service, content_type: str, data: bytes, says: str) -> None:
    answer = service.client.post("/upscale", content=data, headers={"Content-Type": content_type})
    assert (answer.status_code, says in answer.json()["detail"]) == (400, True), answer.text
