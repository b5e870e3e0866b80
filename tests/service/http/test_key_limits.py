"""Limits of API keys over HTTP: jobs at a time, uploads per minute, bytes per day."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from jobs.allowance import Limits
from jobs.errors import LimitReached
from jobs.schema import JobState
from jobs.settings import Settings
from service.callers import Caller
from tests.support.api_keys import OWN_SCOPES, Keys, job_of
from tests.support.http_keys import ask
from tests.support.http_server import Service, serving


@pytest.fixture
def service(settings: Settings, keys: Keys) -> Iterator[Service]:
    with serving(settings) as running:
        running.announce_worker()
        yield running


def limited(keys: Keys, **limits: int) -> str:
    """Text of a new key with these limits."""
    return keys.file.add("limited", OWN_SCOPES, Limits(**limits))[1]


def refused(answer: httpx.Response) -> int:
    """Check a refusal by a limit; return the seconds to wait."""
    assert (answer.status_code, answer.json()["type"]) == (429, "/problems/limit-reached")
    return int(answer.headers["retry-after"])


def test_parallel_uploads_never_exceed_the_jobs_at_a_time(service: Service, keys: Keys, clip: Path) -> None:
    key, most = limited(keys, max_jobs=2), 2
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(service, "POST", "/upscale", key, clip), range(20)))
    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [202] * most + [429] * (20 - most)
    for answer in answers:
        if answer.status_code == 429:
            assert refused(answer) > 0
            assert "2 jobs at a time" in answer.json()["detail"]
    assert len(service.operations.recent()) == most
    assert [path for path in service.files() if path.suffix == ".part"] == []
    queued = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert ask(service, "POST", f"/jobs/{queued[0]}/pause", key).status_code == 200  # a paused job does not count
    assert ask(service, "POST", "/upscale", key, clip).status_code == 202
    refused(ask(service, "POST", f"/jobs/{queued[0]}/resume", key))
    assert ask(service, "POST", f"/jobs/{queued[1]}/resume", key).status_code == 409
    assert ask(service, "POST", f"/jobs/{queued[1]}/cancel", key).status_code == 200
    assert ask(service, "POST", f"/jobs/{queued[0]}/resume", key).status_code == 200
    refused(ask(service, "POST", "/upscale", key, clip))


def test_a_failed_upload_frees_its_place(service: Service, keys: Keys, clip: Path, tmp_path: Path) -> None:
    key = limited(keys, max_jobs=1)
    (tmp_path / "no.mp4").write_bytes(b"no video")
    for _ in range(3):
        assert ask(service, "POST", "/upscale", key, tmp_path / "no.mp4").status_code == 415
    assert ask(service, "POST", "/upscale", key, clip).status_code == 202


def test_a_job_that_is_paused_in_this_moment_needs_a_place(
    service: Service, keys: Keys, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, storage = service.operations.store, service.operations.storage
    paused, _ = (job_of(keys.ids["own"], state, store, storage, clip) for state in (JobState.PAUSED, JobState.QUEUED))
    own = service.operations.for_caller(Caller(keys.ids["own"], scopes=OWN_SCOPES, limits=Limits(max_jobs=1)))
    seen = own.get(paused).model_copy(update={"state": JobState.RUNNING})
    monkeypatch.setattr(own, "get", lambda _: seen)
    with pytest.raises(LimitReached):
        own.resume(paused)
    assert store.get(paused).state is JobState.PAUSED


def test_uploads_per_minute(service: Service, keys: Keys, clip: Path) -> None:
    key = limited(keys, uploads_per_minute=3)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(service, "POST", "/upscale", key, clip), range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 5
    assert all(0 < refused(answer) <= 60 for answer in answers if answer.status_code == 429)
    assert ask(service, "GET", "/jobs", key).status_code == 200
    assert ask(service, "POST", "/upscale", keys.text("own"), clip).status_code == 202, "another key has its own count"


def test_bytes_per_day(service: Service, keys: Keys, clip: Path, tmp_path: Path) -> None:
    size = clip.stat().st_size
    key = limited(keys, bytes_per_day=2 * size + size // 2)
    for _ in range(2):
        assert ask(service, "POST", "/upscale", key, clip).status_code == 202
    answer = ask(service, "POST", "/upscale", key, clip)
    assert 0 < refused(answer) <= 86400
    assert "bytes a day" in answer.json()["detail"]

    def body() -> Iterator[bytes]:  # the size is not announced
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="clip.mp4"\r\n\r\n'
        yield clip.read_bytes() + b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b", "X-API-Key": key}
    refused(service.client.post("/upscale", content=body(), headers=headers))
    (tmp_path / "small").write_bytes(b"x" * (size // 4))
    assert ask(service, "POST", "/upscale", key, tmp_path / "small").status_code == 415, "some bytes are left"
    refused(ask(service, "POST", "/upscale", key, clip))


def test_a_repeated_upload_counts_its_bytes(service: Service, keys: Keys, clip: Path) -> None:
    key = limited(keys, bytes_per_day=2 * clip.stat().st_size + 1000, max_jobs=1)
    header = {"Idempotency-Key": "mine"}
    assert [ask(service, "POST", "/upscale", key, clip, **header).status_code for _ in "123"] == [202, 202, 429]


def test_a_full_redis_refuses_uploads_of_limited_keys_and_lets_users_free_memory(
    service: Service, keys: Keys, clip: Path
) -> None:
    key = limited(keys, max_jobs=5, uploads_per_minute=50, bytes_per_day=10**9)
    job_id = ask(service, "POST", "/upscale", key, clip).json()["id"]
    redis = service.operations.store.redis
    redis.config_set("maxmemory", "1")
    try:
        assert ask(service, "POST", "/upscale", key, clip).status_code == 503
        assert ask(service, "POST", f"/jobs/{job_id}/cancel", key).status_code == 200
        assert ask(service, "DELETE", f"/jobs/{job_id}", key).status_code == 200
    finally:
        redis.config_set("maxmemory", "0")
    assert ask(service, "POST", "/upscale", key, clip).status_code == 202
