"""Resumable uploads by tus, over real sockets: the protocol, its limits, crashes, and jobs made of uploads."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from subprocess import run

import httpx
import pytest
from tusclient.client import TusClient

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.allowance import Limits
from jobs.errors import StoreUnavailable
from jobs.resumable import ResumableFiles
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore
from service.operations import Operations
from tests.support.api_keys import OWN_SCOPES, make_keys
from tests.support.api_process import api
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving
from tests.support.paths import ROOT
from tests.support.processes import wait_until
from worker.janitor import Janitor

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {"Content-Type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=2)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings.model_copy(update={"max_upload_bytes": 8 << 20, "upload_idle_seconds": 2.0})) as running:
        yield running


def metadata(name: str) -> str:
    return f"filename {base64.b64encode(name.encode()).decode()}"


def checksum(algorithm: str, data: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.new(algorithm, data).digest()).decode()
    return {"Upload-Checksum": f"{algorithm} {digest}"}


def create(service: Service, length: int, **headers: str) -> str:
    """Create an upload; return its address."""
    answer = service.client.post("/uploads", headers={**TUS, "Upload-Length": str(length), **headers})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def patch(service: Service, address: str, offset: int, data: bytes, **headers: str) -> httpx.Response:
    sent = {**TUS, **BYTES, "Upload-Offset": str(offset), **headers}
    return service.client.patch(address, content=data, headers=sent)


def offset(service: Service, address: str) -> int:
    answer = service.client.head(address, headers=TUS)
    assert answer.status_code == 200, answer.headers
    return int(answer.headers["upload-offset"])


def whole(service: Service, data: bytes, name: str = "a.mp4") -> str:
    """Upload data; return the upload's id."""
    address = create(service, len(data), **{"Upload-Metadata": metadata(name)})
    assert patch(service, address, 0, data).status_code == 204
    return address.rpartition("/")[2]


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"]


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


def test_a_broken_connection_keeps_its_bytes_and_a_new_one_takes_over(service: Service) -> None:
    """HEAD ends the request of a dead connection; two requests never write at the same time."""
    address, data = create(service, 1 << 20), os.urandom(1 << 20)
    request = (
        f"PATCH {address} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        f"Content-Type: application/offset+octet-stream\r\nContent-Length: {len(data)}\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), 10) as dead:
        dead.sendall(f"{request}\r\n".encode() + data[:500_000])
        path = service.operations.resumable.peek(address.rpartition("/")[2])[1]
        wait_until(lambda: path.stat().st_size > 250_000, 5, "nothing was written while it arrived")
        assert problem(patch(service, address, 0, b"x")) == (423, "/problems/upload-busy")
        assert service.client.post("/upscale", json={"upload": path.name}).status_code == 423
        begun = time.monotonic()
        assert offset(service, address) == 500_000
        assert time.monotonic() - begun < 2
        assert dead.recv(20).startswith(b"HTTP/1.1 423")
    with socket.create_connection(("127.0.0.1", service.port), 10) as gone:
        promise = checksum("sha1", b"never")["Upload-Checksum"]
        later = request.replace("Offset: 0", "Offset: 500000").replace(str(len(data)), str(len(data) - 500_000))
        gone.sendall(f"{later}Upload-Checksum: {promise}\r\n\r\n".encode() + data[500_000:900_000])
        wait_until(lambda: path.stat().st_size > 750_000, 5, "nothing was written while it arrived")
    wait_until(lambda: path.stat().st_size == 500_000, 5, "bytes without a verified checksum count")
    assert offset(service, address) == 500_000
    assert patch(service, address, 500_000, data[500_000:]).status_code == 204
    assert path.read_bytes() == data


def test_a_stalled_request_ends_and_keeps_its_bytes(service: Service) -> None:
    address = create(service, 1 << 20)
    with socket.create_connection(("127.0.0.1", service.port), 10) as stalled:
        stalled.sendall(
            f"PATCH {address} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Length: 99\r\n"
            "Content-Type: application/offset+octet-stream\r\n\r\n12345".encode()
        )
        assert stalled.recv(20).startswith(b"HTTP/1.1 408")
    assert offset(service, address) == 5


def test_announcements_cost_others_nothing(settings: Settings, clip: Path) -> None:
    with serving(settings) as service:
        storage = service.operations.storage
        storage.min_free = storage.free() - (200 << 20)  # 200 MiB for uploads
        for _ in range(20):
            create(service, 100 << 20)
        assert service.post(clip).status_code == 202
        too_large = service.client.post("/uploads", headers={**TUS, "Upload-Length": str(300 << 20)})
        assert problem(too_large) == (507, "/problems/storage-full")
        big = create(service, 150 << 20)
        assert patch(service, big, 0, bytes(1 << 20)).status_code == 204
        storage.min_free = storage.free() - (100 << 20)
        assert patch(service, big, 1 << 20, bytes(1 << 20)).status_code == 507, "the rest has no room"
        assert offset(service, big) == 1 << 20


def test_open_uploads_are_limited_for_each_owner(settings: Settings, data_dir: Path) -> None:
    keys = make_keys(data_dir)
    with serving(settings.model_copy(update={"max_open_uploads": 3})) as service:
        own, other = ({"X-API-Key": keys.text(kind)} for kind in ("own", "other"))

        def ask(key: dict[str, str]) -> httpx.Response:
            return service.client.post("/uploads", headers={**TUS, "Upload-Length": "9", **key})

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(own), range(8)))
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 5
        full = next(answer for answer in answers if answer.status_code == 429)
        assert "SKIPVSR_MAX_OPEN_UPLOADS" in full.json()["detail"]
        assert int(full.headers["retry-after"]) > 0
        assert ask(other).status_code == 201
        address = next(answer.headers["location"] for answer in answers if answer.status_code == 201)
        foreign = service.client.delete(address, headers={**TUS, **other})
        assert problem(foreign) == (404, "/problems/not-found")
        assert service.client.delete(address, headers={**TUS, **own}).status_code == 204
        assert ask(own).status_code == 201


def test_limits_of_a_key(settings: Settings, data_dir: Path, clip: Path) -> None:
    keys, size = make_keys(data_dir), clip.stat().st_size

    def key(**limits: int) -> dict[str, str]:
        return {"X-API-Key": keys.file.add("limited", OWN_SCOPES, Limits(**limits))[1]}

    with serving(settings) as service:
        rare = key(uploads_per_minute=2)
        length = {"Upload-Length": str(size)}
        statuses = [service.client.post("/uploads", headers={**TUS, **length, **rare}).status_code for _ in "123"]
        assert statuses == [201, 201, 429]
        keys.file.revoke("limited")
        little = key(bytes_per_day=size + 100)
        address = create(service, size, **little)
        assert patch(service, address, 0, clip.read_bytes(), **little).status_code == 204
        second = create(service, 100, **little)
        assert patch(service, second, 0, bytes(100), **{**little, **checksum("sha1", b"")}).status_code == 460
        refused = patch(service, second, 0, bytes(100), **little)
        assert problem(refused) == (429, "/problems/limit-reached"), "dropped bytes count"
        too_much = service.client.post("/uploads", headers={**TUS, "Upload-Length": str(size + 101), **little})
        assert too_much.status_code == 413
        keys.file.revoke("limited")
        single = key(max_jobs=1)
        ids = []
        for _ in "12":  # uploads without a job take no place
            address = create(service, size, **single)
            assert patch(service, address, 0, clip.read_bytes(), **single).status_code == 204
            ids.append(address.rpartition("/")[2])
        first, second_job = (service.client.post("/upscale", json={"upload": i}, headers=single) for i in ids)
        assert (first.status_code, second_job.status_code) == (202, 429)
        assert service.client.post(f"/jobs/{ids[0]}/cancel", headers=single).status_code == 200
        assert service.client.post("/upscale", json={"upload": ids[1]}, headers=single).status_code == 202


def test_expired_uploads_are_removed_and_uploads_in_use_stay(
    settings: Settings, store: JobStore, storage: Storage
) -> None:
    times = {"now": time.time()}
    files = ResumableFiles(storage, store.knows, lambda: times["now"])
    old, used, new = (files.create("", 10, "a.mp4").id for _ in "123")
    folder = storage.resumable / "open"
    (folder / f"{'e' * 24}").touch()  # a crash during a creation
    (folder / f"{'f' * 24}.json").write_text("{")
    janitor = Janitor(settings, store, storage, now=lambda: datetime.fromtimestamp(times["now"], UTC))
    assert janitor.clean() == []
    times["now"] += 25 * 3600
    os.utime(folder / new, (times["now"], times["now"]))
    os.utime(folder / used, (times["now"] - 80_000, times["now"] - 80_000))
    with files.locked(used, "") as opened:
        os.utime(opened.path, (0, 0))
        assert len(janitor.clean()) == 3
    assert {path.name for path in folder.iterdir()} == {".lock", used, f"{used}.json", new, f"{new}.json"}
    assert len(janitor.clean()) == 1
    assert files.peek(new, "")[0].id == new
    assert old not in {path.name for path in folder.iterdir()}


def test_an_expired_upload_is_gone(service: Service) -> None:
    address = create(service, 5)
    path = service.operations.resumable.peek(address.rpartition("/")[2])[1]
    os.utime(path, (0, 0))
    assert problem(patch(service, address, 0, b"12345")) == (410, "/problems/gone")


def test_uploads_may_stay_for_ever(settings: Settings) -> None:
    files = ResumableFiles(
        Storage.from_settings(settings.model_copy(update={"upload_ttl_hours": 1e12})), lambda _: False
    )
    with files.locked(files.create("", 10, "a.mp4", "\xff").id, "") as opened:
        assert opened.expires.year > 2500
        assert opened.upload.metadata == "\xff"


def test_an_upload_survives_a_redis_that_fails_while_its_job_is_created(
    service: Service, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = whole(service, clip.read_bytes())

    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("Redis does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "create", fail)
        assert service.client.post("/upscale", json={"upload": upload}).status_code == 503
    assert service.client.post("/upscale", json={"upload": upload}).status_code == 202
    assert service.client.get(f"/jobs/{upload}/input").content == clip.read_bytes()


def test_only_one_of_many_requests_takes_an_upload(service: Service, clip: Path) -> None:
    upload = whole(service, clip.read_bytes())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.client.post("/upscale", json={"upload": upload}), range(8)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 202
    assert set(statuses[1:]) <= {409, 423}
    assert len(service.operations.recent()) == 1


def test_two_processes_share_uploads_and_kill_loses_nothing(settings: Settings, redis_server: EmbeddedRedis) -> None:
    """A killed process keeps what arrived, except for bytes whose checksum is not verified."""
    data = os.urandom(3 << 20)
    with api(settings) as first, api(settings) as second:
        client, other = (httpx.Client(base_url=server.url, headers=TUS) for server in (first, second))
        with client, other:
            location = client.post("/uploads", headers={"Upload-Length": str(len(data))}).headers["location"]
            head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nContent-Length: 9999999\r\n"
            head = head.replace("9999999", str(len(data)))
            head += "Content-Type: application/offset+octet-stream\r\nUpload-Offset: "
            with first.connect() as connection:
                connection.sendall(f"{head}0\r\n\r\n".encode() + data[: 1 << 20])
                time.sleep(0.5)
                busy = other.patch(location, content=b"x", headers={**BYTES, "Upload-Offset": "0"})
                assert busy.status_code == 423
                assert other.head(location).headers["upload-offset"] == str(1 << 20), "the other process takes over"
            with first.connect() as connection:
                promise = checksum("sha1", b"")["Upload-Checksum"]
                rest = f"Content-Length: {2 << 20}"
                head = head.replace(f"Content-Length: {len(data)}", rest)
                connection.sendall(f"{head}{1 << 20}\r\nUpload-Checksum: {promise}\r\n\r\n".encode() + bytes(1 << 20))
                path = Operations.from_settings(settings).resumable.peek(location.rpartition("/")[2])[1]
                wait_until(lambda: path.stat().st_size > 1 << 20, 5, "nothing was written while it arrived")
                os.kill(first.process.pid, signal.SIGKILL)
                first.process.wait()
            assert other.head(location).headers["upload-offset"] == str(1 << 20), "unverified bytes count"
            sent = {**BYTES, "Upload-Offset": str(1 << 20)}
            assert other.patch(location, content=data[1 << 20 :], headers=sent).status_code == 204
            assert path.read_bytes() == data


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
