"""Downloads over HTTP: names, types, byte ranges, links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.settings import Settings
from service.names import harmless_name
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.media import open_files
from tests.support.processes import wait_until


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=6, sound=True)


def test_result_is_served_with_name_type_and_ranges(service: Service, clip: Path) -> None:
    job_id = service.post(clip, scale="2").json()["id"]
    where = f"/jobs/{job_id}/result"
    early = service.client.get(where)
    assert (early.status_code, early.json()["detail"]) == (
        409,
        "The job is queued. Download the result when its state is done.",
    )
    service.finish(job_id, bytes(range(256)) * 4)
    links = service.client.get(f"/jobs/{job_id}").json()["links"]
    assert links["result"] == where
    assert links["cancel"] is None
    whole = service.client.get(where)
    assert whole.status_code == 200
    assert whole.content == bytes(range(256)) * 4
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["content-disposition"] == 'attachment; filename="clip-x2.mp4"'
    head = service.client.head(where)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "1024", b"")
    part = service.client.get(where, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["content-range"] == "bytes 10-19/1024"
    assert service.client.get(where, headers={"Range": "bytes=-4"}).content == bytes([252, 253, 254, 255])
    changed = service.client.get(where, headers={"Range": "bytes=0-1", "If-Range": '"another"'})
    assert changed.status_code == 200
    for ignored in ("bytes=9-1", "rows=1-2", "bytes=x-", "bytes=-", f"bytes=0-{'9' * 5000}"):
        assert service.client.get(where, headers={"Range": ignored}).status_code == 200, ignored
    outside = service.client.get(where, headers={"Range": "bytes=5000-"})
    assert (outside.status_code, outside.headers["content-range"]) == (416, "bytes */1024")
    assert outside.headers["content-type"] == "application/problem+json"
    other = service.client.get(where, headers={"Range": "bytes=5000-", "If-Range": '"another"'})
    assert other.status_code == 200, "If-Range names another version, so the whole file is sent"
    same = service.client.get(where, headers={"Range": "bytes=5000-", "If-Range": whole.headers["etag"]})
    assert (same.status_code, same.headers["content-type"]) == (416, "application/problem+json")


@pytest.mark.parametrize(
    ("container", "media_type"),
    [("mkv", "video/matroska"), ("mov", "video/quicktime"), ("webm", "video/webm")],
)
def test_result_has_the_suffix_and_type_of_its_container(
    service: Service, clip: Path, container: str, media_type: str
) -> None:
    job = service.post(clip, container=container).json()
    assert (job["options"]["container"], job["options"]["codec"]) == (container, "auto")
    service.finish(job["id"], b"x", suffix=f".{container}")
    answer = service.client.get(f"/jobs/{job['id']}/result")
    assert (answer.content, answer.headers["content-type"]) == (b"x", media_type)
    assert answer.headers["content-disposition"] == f'attachment; filename="clip-x4.{container}"'


def test_upload_is_served_as_octet_stream(service: Service, clip: Path) -> None:
    job_id = service.post(clip).json()["id"]
    answer = service.client.get(f"/jobs/{job_id}/input")
    assert answer.content == clip.read_bytes()
    assert answer.headers["content-type"] == "application/octet-stream"


def test_non_ascii_name_survives(service: Service, clip: Path) -> None:
    with clip.open("rb") as file:
        job = service.client.post("/upscale", data={"height": "96"}, files={"file": ("../Käse „x“\n.mov", file)}).json()
    assert job["filename"] == "Käse „x“%0A.mov"  # the client escapes the line break
    service.finish(job["id"], b"x")
    header = service.client.get(f"/jobs/{job['id']}/result").headers["content-disposition"]
    assert header == (
        "attachment; filename=\"K_se _x__0A-96p.mp4\"; filename*=UTF-8''K%C3%A4se%20%E2%80%9Ex%E2%80%9C%250A-96p.mp4"
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("clip.mp4", "clip.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\videos\\clip.mp4", "clip.mp4"),
        ("/", "video"),
        ("..", "video"),
        ("", "video"),
        ("a\x00b\r\nSet-Cookie: x.mp4", "abSet-Cookie: x.mp4"),
        ("\u202egpj.mp4", "gpj.mp4"),
        ("x" * 300 + ".mp4", "x" * 116 + ".mp4"),
        ("e\u0301.mp4", "\u00e9.mp4"),
    ],
)
def test_names_are_sanitised(given: str, kept: str) -> None:
    assert harmless_name(given) == kept


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", ["result", "input"])
def test_a_link_in_place_of_a_file_is_not_served(
    service: Service, clip: Path, tmp_path: Path, name: str, method: str
) -> None:
    job_id = service.post(clip).json()["id"]
    service.finish(job_id, b"the result")
    storage = service.operations.storage
    path = storage.result_path(job_id) if name == "result" else storage.input_path(job_id)
    (tmp_path / "secret").write_bytes(b"secret of the machine")
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    for headers in ({}, {"Range": "bytes=0-3"}):
        answer = service.client.request(method, f"/jobs/{job_id}/{name}", headers=headers)
        assert answer.status_code == 500
        assert b"secret" not in answer.content
        if method == "GET":
            assert "no regular file" in answer.json()["detail"]


def test_downloads_close_their_files(service: Service, clip: Path) -> None:
    job_id = service.post(clip).json()["id"]
    service.finish(job_id, bytes(100_000))
    where = f"/jobs/{job_id}/result"
    assert len(service.client.get(where).content) == 100_000
    files = open_files()
    for _ in range(5):
        assert service.client.head(where).status_code == 200
        assert service.client.get(where, headers={"Range": "bytes=1-5"}).content == bytes(5)
        assert service.client.get(where, headers={"Range": "bytes=200000-"}).status_code == 416
    wait_until(lambda: open_files() <= files, 60, "a download left a file open")
