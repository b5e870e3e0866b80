"""The API on a bucket: uploads, downloads by range, previews, outages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobs.schema import JobState
from jobs.settings import Settings
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.s3_server import Proxy, S3Server, proxy, s3_server
from tests.support.tus import TUS, create, metadata, patch


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        running.empty()
        yield running


@pytest.fixture
def way(server: S3Server) -> Iterator[Proxy]:
    with proxy(server.port) as running:
        yield running


@pytest.fixture
def service(server: S3Server, way: Proxy, settings: Settings, tmp_path: Path) -> Iterator[Service]:
    with serving(server.settings(settings, tmp_path / "api", way.port)) as running:
        running.announce_worker()
        yield running


@pytest.fixture
def other(server: S3Server, settings: Settings, tmp_path: Path) -> Iterator[Service]:
    """The API on another machine."""
    with serving(server.settings(settings, tmp_path / "other")) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=6)


def test_another_machine_serves_upload_and_result(service: Service, other: Service, clip: Path) -> None:
    job_id = service.post(clip).json()["id"]
    assert not [path for path in service.files() if path.name != "keys.json"], "nothing stays on this machine"
    assert other.client.get(f"/jobs/{job_id}/input").content == clip.read_bytes()
    service.finish(job_id, bytes(range(256)) * 30_000)
    shutil.rmtree(service.operations.storage.job_dir(job_id))
    where, size = f"/jobs/{job_id}/result", 256 * 30_000
    whole = other.client.get(where)
    assert whole.content == bytes(range(256)) * 30_000
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["content-disposition"] == 'attachment; filename="clip-x4.mp4"'
    for text, first, end in (("0-0", 0, 1), ("4194300-4194310", 4194300, 4194311), (f"{size - 2}-", size - 2, size)):
        part = other.client.get(where, headers={"Range": f"bytes={text}"})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
        assert part.content == whole.content[first:end]
    assert other.client.get(where, headers={"Range": "bytes=-3"}).content == whole.content[-3:]
    assert other.client.get(where, headers={"Range": f"bytes={size}-"}).status_code == 416
    assert other.client.get(where, headers={"Range": "bytes=0-1, 5-6"}).content == whole.content
    head = other.client.head(where, headers={"Range": "bytes=0-1"})
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    etag = whole.headers["etag"]
    assert service.client.get(where, headers={"If-None-Match": etag}).status_code == 304
    assert other.client.get(where, headers={"If-Match": '"x"'}).status_code == 412
    assert other.client.get(where, headers={"If-Range": '"x"', "Range": "bytes=0-1"}).status_code == 200
    assert other.client.get(f"/jobs/{job_id}/preview", params={"view": "source"}).status_code == 200
    assert other.client.delete(f"/jobs/{job_id}").status_code == 200
    assert service.client.get(where).status_code == 404
    assert not [path for path in other.files() if job_id in str(path)]


def test_a_resumable_upload_becomes_a_job(service: Service, other: Service, clip: Path) -> None:
    data = clip.read_bytes()
    address = create(service, len(data), **{"Upload-Metadata": metadata("clip.mp4")})
    assert patch(service, address, 0, data).status_code == 204
    upload_id = address.rpartition("/")[2]
    job = service.client.post("/upscale", data={"upload": upload_id}).json()
    assert job["id"] == upload_id
    assert other.client.get(f"/jobs/{upload_id}/input").content == data
    assert not [path for path in service.files() if upload_id in path.name]
    assert service.client.head(address, headers=TUS).status_code == 409


def test_an_outage_is_answered_with_retry_after(service: Service, way: Proxy, clip: Path) -> None:
    data = clip.read_bytes()
    job_id = service.post(clip).json()["id"]
    waiting = service.post(clip).json()["id"]
    service.finish(job_id, b"the result")
    address = create(service, len(data), **{"Upload-Metadata": metadata("clip.mp4")})
    patch(service, address, 0, data)
    assert service.client.get("/readyz").status_code == 200
    way.cut()
    upload_id = address.rpartition("/")[2]
    answers = [
        service.client.get("/readyz"),
        service.client.get(f"/jobs/{job_id}/result"),
        service.client.get(f"/jobs/{job_id}/input"),
        service.client.get(f"/jobs/{waiting}/preview"),
        service.post(clip),
        service.client.post("/upscale", data={"upload": upload_id}),
        service.client.delete(f"/jobs/{job_id}"),
    ]
    assert [answer.status_code for answer in answers] == [503] * len(answers)
    assert all(answer.headers["retry-after"] == "5" for answer in answers)
    assert all(answer.json()["type"].endswith("storage-unavailable") for answer in answers)
    assert service.client.get("/healthz").status_code == 200
    assert service.client.get(f"/jobs/{job_id}").json()["state"] == "done"
    assert service.client.post(f"/jobs/{waiting}/cancel").json()["state"] == "cancelled"
    way.mend()
    assert service.client.get("/readyz").status_code == 200
    assert service.client.get(f"/jobs/{job_id}/result").content == b"the result"
    assert service.client.post("/upscale", data={"upload": upload_id}).status_code == 202, "no byte is lost"
    assert service.operations.get(upload_id).state is JobState.QUEUED


def test_results_can_be_read_from_the_store(
    server: S3Server, service: Service, settings: Settings, clip: Path, tmp_path: Path
) -> None:
    job_id = service.post(clip).json()["id"]
    storage = service.operations.storage
    claim = service.operations.store.claim(job_id, "test-worker")
    assert claim is not None
    made = storage.take_work(job_id, claim.token) / "result.mp4"
    made.write_bytes(b"the result")
    storage.publish(made, job_id, name="K\u00e4se-x4.mp4")
    service.operations.store.release(claim, JobState.DONE)
    shared = server.settings(settings, tmp_path / "redirects").model_copy(update={"s3_redirect_seconds": 60.0})
    with serving(shared) as redirecting:
        where = f"/jobs/{job_id}/result"
        assert redirecting.client.get(where).content == b"the result"
        assert redirecting.client.head(where, params={"direct": True}).status_code == 200
        answer = redirecting.client.get(where, params={"direct": True})
        assert answer.status_code == 307
        assert answer.headers["cache-control"] == "no-store"
        assert "X-Amz-Expires=60" in answer.headers["location"]
        assert "something" not in answer.headers["location"], "the secret"
        direct = httpx.get(answer.headers["location"])
        assert direct.content == b"the result"
        assert direct.headers["content-type"] == "video/mp4"
        assert direct.headers["content-disposition"].endswith("filename*=UTF-8''K%C3%A4se-x4.mp4")
        assert redirecting.client.get(f"/jobs/{job_id}/input").content == clip.read_bytes()
    assert service.client.get(where, params={"direct": True}).content == b"the result"
