"""Resumable uploads under stress: broken connections, limits, expiry, several requests and processes, crashes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

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
from tests.support.processes import wait_until
from tests.support.tus import BYTES, TUS, checksum, create, offset, patch, problem, whole
from worker.janitor import Janitor


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=2)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings.model_copy(update={"max_upload_bytes": 8 << 20, "upload_idle_seconds": 600.0})) as running:
        yield running


def test_a_broken_connection_keeps_its_bytes_and_a_new_one_takes_over(service: Service) -> None:
    """HEAD ends the request of a dead connection; two requests never write at the same time."""
    address, data = create(service, 1 << 20), os.urandom(1 << 20)
    request = (
        f"PATCH {address} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        f"Content-Type: application/offset+octet-stream\r\nContent-Length: {len(data)}\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), 60) as dead:
        dead.sendall(f"{request}\r\n".encode() + data[:500_000])
        path = service.operations.resumable.peek(address.rpartition("/")[2])[1]
        wait_until(lambda: path.stat().st_size > 250_000, 60, "nothing was written while it arrived")
        assert problem(patch(service, address, 0, b"x")) == (423, "/problems/upload-busy")
        assert service.client.post("/upscale", json={"upload": path.name}).status_code == 423
        kept = offset(service, address)  # a busy server has not read all of the bytes
        assert 250_000 < kept <= 500_000
        assert dead.recv(20).startswith(b"HTTP/1.1 423")
    with socket.create_connection(("127.0.0.1", service.port), 60) as gone:
        promise = checksum("sha1", b"never")["Upload-Checksum"]
        later = request.replace("Offset: 0", f"Offset: {kept}").replace(str(len(data)), str(len(data) - kept))
        gone.sendall(f"{later}Upload-Checksum: {promise}\r\n\r\n".encode() + data[kept:900_000])
        wait_until(lambda: path.stat().st_size > 750_000, 60, "nothing was written while it arrived")
    wait_until(lambda: path.stat().st_size == kept, 60, "bytes without a verified checksum count")
    assert offset(service, address) == kept
    assert patch(service, address, kept, data[kept:]).status_code == 204
    assert path.read_bytes() == data


def test_a_stalled_request_ends_and_keeps_its_bytes(settings: Settings) -> None:
    with serving(settings.model_copy(update={"upload_idle_seconds": 1.0})) as service:
        address = create(service, 1 << 20)
        with socket.create_connection(("127.0.0.1", service.port), 60) as stalled:
            stalled.sendall(
                f"PATCH {address} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
                "Content-Type: application/offset+octet-stream\r\nContent-Length: 99\r\n\r\n12345".encode()
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
                path = Operations.from_settings(settings).resumable.peek(location.rpartition("/")[2])[1]
                wait_until(lambda: path.stat().st_size > 1 << 19, 60, "nothing was written while it arrived")
                busy = other.patch(location, content=b"x", headers={**BYTES, "Upload-Offset": "0"})
                assert busy.status_code == 423
                kept = int(other.head(location).headers["upload-offset"])
                assert 1 << 19 < kept <= 1 << 20, "the other process takes over"
            with first.connect() as connection:
                promise = checksum("sha1", b"")["Upload-Checksum"]
                rest = f"Content-Length: {len(data) - kept}"
                head = head.replace(f"Content-Length: {len(data)}", rest)
                connection.sendall(f"{head}{kept}\r\nUpload-Checksum: {promise}\r\n\r\n".encode() + bytes(1 << 20))
                wait_until(lambda: path.stat().st_size > kept + (1 << 19), 60, "nothing was written while it arrived")
                os.kill(first.process.pid, signal.SIGKILL)
                first.process.wait()
            assert other.head(location).headers["upload-offset"] == str(kept), "unverified bytes count"
            sent = {**BYTES, "Upload-Offset": str(kept)}
            assert other.patch(location, content=data[kept:], headers=sent).status_code == 204
            assert path.read_bytes() == data
