"""The janitor and the liveness monitor: retention, files in use, orphans, and clocks that jump."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis

from jobs import lines, records
from jobs.errors import Gone, NotFound
from jobs.schema import Job, JobOptions, JobState
from jobs.settings import Settings
from jobs.storage import Storage, new_id
from jobs.store import JobStore
from tests.support.processes import wait_until
from worker.janitor import Janitor
from worker.liveness import LivenessMonitor


class Times:
    """Clocks set by the test."""

    def __init__(self) -> None:
        self.wall = datetime.now(UTC)
        self.monotonic = 1000.0


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def store(redis: Redis) -> JobStore:
    return JobStore(redis)


@pytest.fixture
def storage(data_dir: Path) -> Storage:
    storage = Storage(data_dir)
    storage.prepare()
    return storage


@pytest.fixture
def janitor(settings: Settings, store: JobStore, storage: Storage, times: Times) -> Janitor:
    return Janitor(settings, store, storage, now=lambda: times.wall, clock=lambda: times.monotonic)


def job_in(state: JobState, store: JobStore, storage: Storage, owner: str = "") -> str:
    """A job with all kinds of files."""
    job = Job(id=new_id(), owner=owner, filename="clip.mp4", options=JobOptions())
    upload = storage.uploads / f"{job.id}.part"
    upload.write_bytes(b"video")
    storage.adopt(upload, job.id)
    store.create(job)
    if state is not JobState.QUEUED:
        claim = store.claim(job.id, "w")
        assert claim is not None
        (storage.take_work(job.id, claim.token) / "segment-000000.mp4").write_bytes(b"x")
        storage.result_path(job.id).write_bytes(b"result")
        if state is not JobState.RUNNING:
            store.release(claim, state)
    return job.id


def test_the_oldest_finished_jobs_leave_the_history_first(
    settings: Settings, store: JobStore, storage: Storage, times: Times
) -> None:
    states = [JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.DONE, JobState.DONE]
    old, failed, cancelled, *kept = (job_in(state, store, storage) for state in states)
    active = [job_in(state, store, storage) for state in (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)]
    Janitor(settings.model_copy(update={"history_jobs": 2}), store, storage, now=lambda: times.wall).clean()
    assert store.ids() == {*kept, *active}
    assert storage.folders().keys() == {*kept, *active}
    for job_id in (old, failed, cancelled):
        assert not store.redis.exists(f"skipvsr:job:{job_id}")
    assert all(storage.result_path(job_id).exists() for job_id in kept)
    Janitor(settings.model_copy(update={"history_jobs": 0}), store, storage, now=lambda: times.wall).clean()
    assert store.ids() == {*kept, *active}


def test_many_jobs_of_one_key_push_no_job_of_another_key_out_of_the_history(
    settings: Settings, store: JobStore, storage: Storage, times: Times
) -> None:
    quiet = [job_in(JobState.DONE, store, storage, "0000000a") for _ in range(2)]
    busy = [job_in(JobState.CANCELLED, store, storage, "0000000b") for _ in range(6)]
    Janitor(settings.model_copy(update={"history_jobs": 4}), store, storage, now=lambda: times.wall).clean()
    assert store.ids() == {*quiet, *busy[-2:]}
    assert all(storage.result_path(job_id).exists() for job_id in quiet)


def test_history_takes_at_most_half_of_redis(janitor: Janitor, store: JobStore, storage: Storage) -> None:
    done = [job_in(JobState.DONE, store, storage) for _ in range(6)]
    size = sum(len(store.get(job_id).model_dump_json()) for job_id in done[3:])
    store.redis.config_set("maxmemory", 2 * size + 1000)  # less than Redis takes: full
    try:
        janitor.clean()
        assert store.ids() == set(done[3:])
    finally:
        store.redis.config_set("maxmemory", 0)


def test_a_full_redis_is_cleaned_and_loses_no_job(
    settings: Settings, store: JobStore, storage: Storage, times: Times
) -> None:
    old, new, lost = (job_in(JobState.DONE, store, storage) for _ in range(3))
    waiting = job_in(JobState.QUEUED, store, storage)
    janitor = Janitor(
        settings.model_copy(update={"history_jobs": 1}),
        store, storage, now=lambda: times.wall, clock=lambda: times.monotonic,
    )  # fmt: skip
    records.follow(storage, store.list())
    for job_id in (lost, waiting):
        store.redis.zrem("skipvsr:jobs", job_id)
        store.redis.srem("skipvsr:state:done", job_id)
        store.redis.srem("skipvsr:state:queued", job_id)
        store.redis.delete(f"skipvsr:job:{job_id}")
    store.redis.config_set("maxmemory", 500_000)  # less than an empty Redis takes
    try:
        for _ in range(3):
            janitor.clean()
            times.monotonic += 7200
        assert store.ids() == {new}, "the oldest job left the history, also while Redis accepts no job"
        assert storage.folders().keys() == {new, lost, waiting}, "no folder counts as an orphan meanwhile"
        assert not storage.job_dir(old).exists()
    finally:
        store.redis.config_set("maxmemory", 0)
    janitor.clean()
    assert waiting in store.ids()


def names(storage: Storage, job_id: str) -> set[str]:
    folder = storage.job_dir(job_id)
    return {path.name.split("-")[0] for path in folder.iterdir()} - {"job.json"} if folder.exists() else set()


def test_expired_files_are_removed(janitor: Janitor, store: JobStore, storage: Storage, times: Times) -> None:
    done, failed = job_in(JobState.DONE, store, storage), job_in(JobState.FAILED, store, storage)
    cancelled = job_in(JobState.CANCELLED, store, storage)
    lines.take(store.redis)  # a worker took the ticket, finished the job, and died
    janitor.clean()
    assert names(storage, done) == {"input", "result.mp4", "work"}, "the worker may still clean up"
    times.wall += timedelta(minutes=1)
    janitor.clean()
    assert names(storage, done) == {"input", "result.mp4"}
    assert store.redis.keys("rq:job:*") == []
    assert names(storage, failed) == {"input", "result.mp4", "work"}
    assert names(storage, cancelled) == set()
    times.wall += timedelta(hours=25)
    janitor.clean()
    assert names(storage, done) == {"result.mp4"}
    times.wall += timedelta(hours=48)
    janitor.clean()
    assert names(storage, failed) == set()
    times.wall += timedelta(hours=96)
    janitor.clean()
    assert names(storage, done) == set()
    assert store.get(done).state is JobState.DONE, "the document stays"
    times.wall += timedelta(days=30)
    janitor.clean()
    with pytest.raises(NotFound):
        store.get(done)


def test_a_failed_job_resumed_during_the_cleanup_keeps_its_files(
    settings: Settings, store: JobStore, storage: Storage, times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = job_in(JobState.FAILED, store, storage), job_in(JobState.FAILED, store, storage)
    times.wall += timedelta(hours=73)
    janitor = Janitor(settings, store, storage, now=lambda: times.wall, clock=lambda: times.monotonic)
    listed = store.list

    def list_and_resume(**what: int) -> list[Job]:
        jobs = listed(limit=what["limit"])
        store.resume(early)
        return jobs

    monkeypatch.setattr(store, "list", list_and_resume)
    janitor.clean()
    assert names(storage, early) == {"input", "result.mp4", "work"}
    assert store.get(early).state is JobState.QUEUED
    assert store.without_ticket() == set()
    assert names(storage, late) == set()
    assert store.get(late).files_removed
    with pytest.raises(Gone):
        store.resume(late)
    assert not store.forget(early), "the job is queued"
    assert store.without_ticket() == set()


def test_a_broken_document_does_not_end_the_janitor(
    settings: Settings, store: JobStore, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    broken, stale = job_in(JobState.DONE, store, storage), storage.uploads / "stale.part"
    stale.write_bytes(b"x")
    store.redis.hset(f"skipvsr:job:{broken}", "filename", "[]")
    janitor = Janitor(settings.model_copy(update={"janitor_seconds": 0.05, "orphan_minutes": 0}), store, storage)
    janitor.start()
    wait_until(lambda: caplog.text.count("cleanup failed; trying again") > 1, 60, "the janitor has ended")
    store.redis.hset(f"skipvsr:job:{broken}", "filename", '"clip.mp4"')
    wait_until(lambda: not stale.exists(), 60, "the janitor does not continue")
    janitor.stop()


def test_uploads_may_outlive_results(settings: Settings, store: JobStore, storage: Storage, times: Times) -> None:
    kept = settings.model_copy(update={"input_ttl_hours": 48.0, "result_ttl_hours": 1.0})
    janitor = Janitor(kept, store, storage, now=lambda: times.wall, clock=lambda: times.monotonic)
    done = job_in(JobState.DONE, store, storage)
    times.wall += timedelta(hours=2)
    janitor.clean()
    assert names(storage, done) == {"input"}
    times.wall += timedelta(hours=47)
    janitor.clean()
    assert not storage.job_dir(done).exists()


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.PAUSED])
def test_files_in_use_stay_when_the_wall_clock_jumps(
    janitor: Janitor, store: JobStore, storage: Storage, times: Times, state: JobState
) -> None:
    job_id = job_in(state, store, storage)
    before = names(storage, job_id)
    for jump in (timedelta(days=4000), timedelta(days=-8000)):
        times.wall += jump
        assert janitor.clean() == []
    assert names(storage, job_id) == before
    assert store.get(job_id).state is state


def test_orphans_are_removed_after_a_while_without_change(
    janitor: Janitor, store: JobStore, storage: Storage, times: Times
) -> None:
    job_in(JobState.QUEUED, store, storage)  # without any job, Redis may have lost all
    folder = storage.root / new_id()
    folder.mkdir()
    growing, stale = storage.uploads / "growing.part", storage.uploads / "stale.part"
    growing.write_bytes(b"1")
    stale.write_bytes(b"1")
    assert janitor.clean() == []
    times.wall += timedelta(days=1000)
    assert janitor.clean() == [], "the wall clock decides nothing about orphans"
    times.monotonic += 3000
    os.utime(growing, ns=(1, 1))
    assert janitor.clean() == []
    times.monotonic += 700
    assert sorted(janitor.clean()) == sorted([f"orphan {folder.name}", "orphan stale.part"])
    assert growing.exists(), "the upload still grows"


def test_a_lost_worker_is_detected_by_its_heartbeat_count(
    settings: Settings, store: JobStore, storage: Storage, times: Times
) -> None:
    monitor = LivenessMonitor(store, settings, clock=lambda: times.monotonic)
    job_id = job_in(JobState.QUEUED, store, storage)
    claim = store.claim(job_id, "w")
    assert claim is not None
    for _ in range(40):  # 80 s of heartbeats
        assert monitor.check() == []
        store.heartbeat(claim)
        times.monotonic += 2
    assert monitor.check() == []
    times.monotonic += 500  # the observer was stopped, or the machine slept
    assert monitor.check() == [], "the observer has missed heartbeats itself"
    for _ in range(9):
        times.monotonic += 2
        assert monitor.check() == []
    times.monotonic += 2
    assert monitor.check() == [job_id]
    assert store.get(job_id).state is JobState.QUEUED
    lines.take(store.redis)  # another worker took the ticket and died
    assert monitor.check() == []
    for _ in range(5):
        times.monotonic += 2
        monitor.check()
    assert store.without_ticket() == set()
