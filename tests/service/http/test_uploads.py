"""Resumable uploads by tus, over real sockets: the protocol, and jobs made of uploads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from subprocess import run

import pytest
from tusclient.client import TusClient

from jobs.settings import Settings
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.paths import ROOT
from tests.support.tus import BYTES, TUS, checksum, create, metadata, offset, patch, problem, whole


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=2)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings.model_copy(update={"max_upload_bytes": 8 << 20, "upload_idle_seconds": 2.0})) as running:
        yield running


def test_the_server_says_what_it_can(service: Service) -> None:
    for path in ("/uploads", "/uploads/abc"):
        answer = service.client.options(path)
        assert (answer.status_code, answer.headers["tus-version"]) == (204, "1.0.0")
        assert answer.headers["tus-max-size"] == str(8 << 20)
        assert set(answer.headers["tus-extension"].split(",")) == {
            "creation", "creation-with-upload", "termination", "checksum", "expiration"
        }  # fmt: skip
        assert {"sha1", "sha256"} <= set(answer.headers["tus-checksum-algorithm"].split(","))


def test_an_upload_in_pieces_becomes_a_job(service: Service, clip: Path) -> None:
    data = clip.read_bytes()
    address = create(service, len(data), **{"Upload-Metadata": metadata("Zwölf.mp4")})
    assert offset(service, address) == 0
    for start in range(0, len(data), 1000):
        answer = patch(service, address, start, data[start : start + 1000])
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(min(start + 1000, len(data))))
        assert answer.headers["tus-resumable"] == "1.0.0"
    seen = service.client.head(address, headers=TUS).headers
    assert (seen["upload-length"], seen["upload-metadata"]) == (str(len(data)), metadata("Zwölf.mp4"))
    assert seen["cache-control"] == "no-store"
    left = parsedate_to_datetime(seen["upload-expires"]) - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(hours=24)
    upload_id = address.rpartition("/")[2]
    answer = service.client.post("/upscale", json={"upload": upload_id, "scale": 2, "crf": None})
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["id"], job["filename"], job["options"]["scale"]) == (upload_id, "Zwölf.mp4", 2)
    assert service.client.get(job["links"]["input"]).content == data
    assert problem(service.client.patch(address, content=b"x", headers={**TUS, **BYTES, "Upload-Offset": "0"})) == (
        409, "/problems/not-ready"
    )  # fmt: skip
    again = service.client.post("/upscale", data={"upload": upload_id})
    assert problem(again) == (409, "/problems/not-ready")
    assert f"/jobs/{upload_id}" in again.json()["detail"]
    assert [path.name for path in service.files() if path.parent.parent.name == "resumable"] == [".lock"]


@pytest.mark.parametrize("how", ["form", "fields", "query"])
def test_forms_name_an_upload(service: Service, clip: Path, how: str) -> None:
    fields = {"upload": whole(service, clip.read_bytes()), "crf": "20", "filename": "b/c.mp4"}
    sent = {
        "form": {"files": {name: (None, text) for name, text in fields.items()}},
        "fields": {"data": fields},
        "query": {"params": fields},
    }[how]
    answer = service.client.post("/upscale", **sent)  # type: ignore[arg-type]
    assert answer.status_code == 202, answer.text
    assert (answer.json()["options"]["crf"], answer.json()["filename"]) == (20, "c.mp4")


def test_uploads_that_are_no_job_yet(service: Service, clip: Path) -> None:
    data = clip.read_bytes()
    address = create(service, len(data))
    body = {"upload": address.rpartition("/")[2]}
    answer = service.client.post("/upscale", json=body)
    assert problem(answer) == (409, "/problems/not-ready")
    assert f"0 of {len(data):,} bytes" in answer.json()["detail"]
    patch(service, address, 0, data)
    for wrong, status in (({"crf": 99}, 400), ({"codec": {}}, 400), ({"url": "http://a"}, 400), ({"model": "no"}, 202)):
        answer = service.client.post("/upscale", json={**body, **wrong})
        assert answer.status_code == status, answer.text  # a refused request keeps the upload
    for unknown in ("0" * 24, "../../etc", "x"):
        assert problem(service.client.post("/upscale", json={"upload": unknown})) == (404, "/problems/not-found")
    text = whole(service, b"no video at all")
    assert service.client.post("/upscale", json={"upload": text}).status_code == 415
    assert offset(service, f"/uploads/{text}") == 15
    empty = create(service, 0).rpartition("/")[2]
    assert service.client.post("/upscale", json={"upload": empty}).status_code == 400


def test_an_idempotency_key_holds_for_an_upload(service: Service, clip: Path) -> None:
    body, key = {"upload": whole(service, clip.read_bytes())}, {"Idempotency-Key": "mine"}
    first, again = (service.client.post("/upscale", json=body, headers=key) for _ in "12")
    assert (first.status_code, again.status_code) == (202, 202)
    assert (again.json()["id"], again.headers["idempotency-replayed"]) == (first.json()["id"], "true")
    other = service.client.post("/upscale", json={**body, "crf": 30}, headers=key)
    assert problem(other) == (422, "/problems/key-reused")


def test_wrong_requests(service: Service) -> None:
    address = create(service, 10)
    assert patch(service, address, 0, b"12345").status_code == 204
    wrong = patch(service, address, 0, b"12345")
    assert problem(wrong) == (409, "/problems/offset-mismatch")
    assert "Upload-Offset: 5" in wrong.json()["detail"]
    assert problem(patch(service, address, 5, b"678901")) == (413, "/problems/too-large")
    assert patch(service, address, 5, b"", **{"Content-Type": "video/mp4"}).status_code == 415
    for version in ({}, {"Tus-Resumable": "0.2.2"}):
        for method, path in (("POST", "/uploads"), ("PATCH", address), ("DELETE", address)):
            answer = service.client.request(method, path, headers={"Upload-Length": "1", **version})
            assert (answer.status_code, answer.headers["tus-version"]) == (412, "1.0.0")
            assert answer.headers["tus-resumable"] == "1.0.0"
    bad = [
        {"Upload-Length": "ten"},
        {"Upload-Length": "-1"},
        {},
        {"Upload-Length": "1", "Upload-Metadata": "filename !"},
        {"Upload-Length": "1", "Upload-Metadata": "a " + "A" * 8000},
    ]
    for headers in bad:
        assert service.client.post("/uploads", headers={**TUS, **headers}).status_code == 400
    assert problem(service.client.post("/uploads", headers={**TUS, "Upload-Length": str(9 << 20)}))[0] == 413
    assert patch(service, address, 5, b"6", **{"Upload-Checksum": "crc32 AAAA"}).status_code == 400
    assert offset(service, address) == 5
    assert service.client.delete(address, headers=TUS).status_code == 204
    for answer in (service.client.delete(address, headers=TUS), patch(service, address, 5, b"6")):
        assert problem(answer) == (404, "/problems/not-found")
    assert service.client.head(address, headers=TUS).status_code == 404
    assert service.client.head("/uploads/..%2Fx", headers=TUS).status_code == 404


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
def test_checksums(service: Service, algorithm: str) -> None:
    data = os.urandom(600_000)
    address = create(service, len(data))
    assert patch(service, address, 0, data[:1000], **checksum(algorithm, data[:1000])).status_code == 204
    wrong = patch(service, address, 1000, data[1000:], **checksum(algorithm, data))
    assert problem(wrong) == (460, "/problems/checksum-mismatch")
    assert offset(service, address) == 1000
    assert patch(service, address, 1000, data[1000:], **checksum(algorithm, data[1000:])).status_code == 204
    _, path = service.operations.resumable.peek(address.rpartition("/")[2])
    assert path.read_bytes() == data


def test_creation_with_the_first_bytes(service: Service) -> None:
    headers = {**TUS, **BYTES, "Upload-Length": "10"}
    answer = service.client.post("/uploads", content=b"12345", headers=headers)
    assert (answer.status_code, answer.headers["upload-offset"]) == (201, "5")
    assert offset(service, answer.headers["location"]) == 5
    for data, more in ((b"1234567890x", {}), (b"12345", checksum("sha1", b"other"))):
        refused = service.client.post("/uploads", content=data, headers={**headers, **more})
        assert refused.status_code in (413, 460)
    names = [path.name for path in service.files()]
    assert sum(name.endswith(".json") for name in names) == 1, "a refused creation leaves nothing"


def test_post_stands_in_for_other_methods(service: Service) -> None:
    address = create(service, 5)
    for method, headers, status in (
        ("PATCH", {**BYTES, "Upload-Offset": "0"}, 204),
        ("HEAD", {}, 200),
        ("PUT", {}, 400),
        ("PATCH", {}, 400),
        ("DELETE", {}, 204),
    ):
        sent = {**TUS, **headers, "X-HTTP-Method-Override": method}
        answer = service.client.post(address, content=b"12345", headers=sent)
        assert answer.status_code == status
        if status == 200:
            assert answer.headers["upload-offset"] == "5"


def test_a_stock_client(service: Service, clip: Path) -> None:
    client = TusClient(f"{service.url}/uploads")
    with clip.open("rb") as file:
        uploader = client.uploader(
            file_stream=file, chunk_size=1000, metadata={"filename": "clip.mp4"}, upload_checksum=True
        )
        uploader.upload_chunk()
        resumed = client.uploader(file_stream=file, url=uploader.url, chunk_size=1000)
        assert resumed.offset == 1000
        resumed.upload()
    upload = str(uploader.url).rpartition("/")[2]
    assert service.client.post("/upscale", json={"upload": upload}).json()["filename"] == "clip.mp4"
    assert service.operations.storage.input_path(upload).read_bytes() == clip.read_bytes()


def test_the_commands_of_the_rest_page(service: Service, clip: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "rest.md").read_text().partition("## Large files")[2].partition("\n## ")[0]
    commands = [block.partition("```")[0] for block in page.split("```sh\n")[1:] if "media.example.com" not in block]
    script = "\n".join(commands).replace("http://127.0.0.1:8000", service.url)
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    done = run(["sh", "-e"], input=script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    jobs = service.client.get("/jobs").json()["jobs"]
    assert [(job["filename"], job["options"]["scale"]) for job in jobs] == [
        ("clip.mp4", 2), ("clip.mp4", None), ("clip.mp4", 2), ("clip.mp4", None)
    ]  # fmt: skip
    for job in jobs:
        assert service.client.get(job["links"]["input"]).content == clip.read_bytes()
