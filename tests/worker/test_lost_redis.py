"""A lost Redis: no result disappears, and the jobs are listed again. Real Redis, flushed in the test."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from redis import Redis

from commands.shared.embedded_redis import EmbeddedRedis
from jobs import records
from jobs.errors import Gone, NotFound, StoreUnavailable
from jobs.keys import COMPLETE
from jobs.recovery import Recovery
from jobs.schema import Job, JobOptions, JobState
from jobs.settings import Settings
from jobs.storage import Storage, new_id
from jobs.store import JobStore
from jobs.tickets import waiting
from service.callers import Caller, Scope
from service.operations import Operations
from tests.support.api_process import Api, api
from tests.support.clips import make_clip
from tests.support.crew import crew, submit, wait_for, wait_for_frames
from tests.support.processes import wait_until
from tests.support.rpc_server import rpc_server
from worker.janitor import Janitor


class Times:
    """Clocks set by the test."""

    def __init__(self) -> None:
        self.wall = datetime.now(UTC)
        self.monotonic = 1000.0

    def pass_(self, hours: float) -> None:
        self.wall += timedelta(hours=hours)
        self.monotonic += hours * 3600


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def janitor(settings: Settings, store: JobStore, storage: Storage, times: Times) -> Janitor:
    storage.prepare()
    return Janitor(settings, store, storage, now=lambda: times.wall, clock=lambda: times.monotonic)


def job_in(state: JobState, store: JobStore, storage: Storage, owner: str = "") -> str:
    """A job with its upload, and with a result if done."""
    storage.prepare()
    job = Job(id=new_id(), owner=owner, filename="clip.mp4", options=JobOptions())
    upload = storage.uploads / f"{job.id}.part"
    upload.write_bytes(b"video")
    storage.adopt(upload, job.id)
    store.create(job)
    if state is not JobState.QUEUED:
        claim = store.claim(job.id, "w")
        assert claim is not None
        if state is JobState.DONE:
            (storage.job_dir(job.id) / "result.mp4").write_bytes(b"result")
        if state is not JobState.RUNNING:
            store.release(claim, state)
    return job.id


STATES = [JobState.QUEUED, JobState.RUNNING, JobState.PAUSED, JobState.DONE, JobState.FAILED]


def test_flushed_jobs_are_listed_again_and_keep_their_files(
    janitor: Janitor, store: JobStore, storage: Storage, times: Times
) -> None:
    ids = {state: job_in(state, store, storage) for state in STATES}
    janitor.clean()
    before = {state: store.get(job_id) for state, job_id in ids.items()}
    store.redis.flushall()
    for _ in range(4):
        janitor.clean()
        times.pass_(0.7)  # twice the grace time of orphans in all
    for state, job_id in ids.items():
        job = store.get(job_id)
        assert job.state is (JobState.QUEUED if state is JobState.RUNNING else state)
        changed = {"state", "updated_at"}
        assert job.model_dump(exclude=changed) == before[state].model_dump(exclude=changed)
        assert storage.input_path(job_id).read_bytes() == b"video"
    assert storage.result_path(ids[JobState.DONE]).read_bytes() == b"result"
    assert sorted(waiting(store.redis)) == sorted([ids[JobState.QUEUED], ids[JobState.RUNNING]])
    assert [job.id for job in store.list()] == sorted(ids.values(), key=lambda i: store.get(i).created_at, reverse=True)


def test_retention_times_continue_after_a_loss(
    janitor: Janitor, store: JobStore, storage: Storage, times: Times
) -> None:
    done = job_in(JobState.DONE, store, storage)
    janitor.clean()
    times.pass_(100)
    store.redis.flushall()
    janitor.clean()
    assert storage.result_path(done).exists()
    assert not storage.input_path(done).exists(), "uploads stay for 24 h"
    times.pass_(69)
    janitor.clean()
    assert not storage.job_dir(done).exists()


def test_results_without_a_record_stay_for_their_retention_time(
    janitor: Janitor, store: JobStore, storage: Storage, times: Times
) -> None:
    """Folders of an older version, or with a damaged record."""
    done, damaged = job_in(JobState.DONE, store, storage), job_in(JobState.DONE, store, storage)
    (storage.job_dir(damaged) / "job.json").write_text("{")
    store.redis.flushall()
    job_in(JobState.QUEUED, store, storage)  # Redis knows one job, so orphans are removed
    for _ in range(3):
        janitor.clean()
        times.pass_(50)
    assert storage.result_path(done).exists()
    assert storage.result_path(damaged).exists()
    for _ in range(2):
        times.pass_(50)
        janitor.clean()
    assert not storage.job_dir(done).exists()
    assert not storage.job_dir(damaged).exists()


def test_a_result_without_a_record_can_be_downloaded(settings: Settings, store: JobStore, storage: Storage) -> None:
    done, link = job_in(JobState.DONE, store, storage), job_in(JobState.DONE, store, storage)
    (storage.job_dir(link) / "result.mp4").unlink()
    (storage.job_dir(link) / "result.mp4").symlink_to("/etc/passwd")
    (storage.root / "no-job").mkdir()
    store.redis.flushall()
    assert records.restore(store, storage) == [done]
    job, file = Operations(store, storage).result(done)
    assert storage.on_disk(done, file).read_bytes() == b"result"
    assert "its record is missing" in job.warnings[0]


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.PAUSED])
def test_a_lost_job_without_its_upload_fails_with_the_reason(
    store: JobStore, storage: Storage, state: JobState
) -> None:
    job_id = job_in(state, store, storage)
    records.keep(storage, store.get(job_id))
    storage.input_path(job_id).unlink()
    store.redis.flushall()
    assert records.restore(store, storage) == [job_id]
    job = store.get(job_id)
    assert (job.state, job.files_removed, waiting(store.redis)) == (JobState.FAILED, True, [])
    assert job.error is not None
    assert "upload the video again" in job.error.detail
    with pytest.raises(Gone):
        Operations(store, storage).resume(job_id)


@pytest.mark.parametrize("server", ["api", "grpc"])
def test_a_server_lists_lost_jobs_without_a_worker(
    settings: Settings, store: JobStore, storage: Storage, tmp_path: Path, server: str
) -> None:
    """Lost before the start, and lost while the server runs and takes new jobs."""
    ids = {state: job_in(state, store, storage) for state in STATES}
    records.follow(storage, store.list())
    store.redis.flushall()
    running = (
        api(settings)
        if server == "api"
        else rpc_server(tmp_path / "rpc", str(settings.redis_url), SKIPVSR_DATA_DIR=str(settings.data_dir))
    )
    with running as process:
        wait_until(lambda: store.ids() == set(ids.values()), 60, "lost before the start")
        store.redis.flushall()
        new = job_in(JobState.QUEUED, store, storage)
        wait_until(lambda: store.ids() == {new, *ids.values()}, 60, "lost while the server runs")
        queued = {new, ids[JobState.QUEUED], ids[JobState.RUNNING]}
        wait_until(lambda: set(waiting(store.redis)) == queued, 60, "listed, but not queued")
        assert len(waiting(store.redis)) == len(queued)
        if isinstance(process, Api):
            answer = httpx.get(f"{process.url}/jobs/{ids[JobState.DONE]}/result")
            assert (answer.status_code, answer.content) == (200, b"result")


def test_a_loss_during_a_restoration_is_noticed(
    store: JobStore, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovery, job_id = Recovery(store, storage), job_in(JobState.DONE, store, storage)
    records.keep(storage, store.get(job_id))
    store.redis.flushall()
    restore = records.restore

    def restored_and_lost(*given: object) -> list[str]:
        restored = restore(*given)  # type: ignore[arg-type]
        store.redis.flushall()
        return restored

    with monkeypatch.context() as patch:
        patch.setattr(records, "restore", restored_and_lost)
        assert recovery.check() == [job_id]
    assert recovery.check() == [job_id], "Redis lost the job again"
    assert recovery.check() == []
    assert store.redis.keys(f"{COMPLETE}*") == [COMPLETE.encode()]
    assert store.redis.ttl(COMPLETE) == -1


def test_a_restarted_redis_is_compared_with_the_disk(store: JobStore, storage: Storage, tmp_path: Path) -> None:
    """A Redis restored from an older copy has the marker, but lacks the newest jobs."""
    with EmbeddedRedis(tmp_path / "r") as server, Redis.from_url(server.url) as client:
        recovery, job_id = Recovery(JobStore(client), storage), job_in(JobState.DONE, store, storage)
        records.keep(storage, store.get(job_id))
        assert recovery.check() == [job_id]
        JobStore(client).forget(job_id)
        assert recovery.check() == [], "nothing was lost"
    with EmbeddedRedis(tmp_path / "r") as server, Redis.from_url(server.url) as client:
        recovery._store = JobStore(client)
        assert recovery.check() == [job_id]


def test_nothing_is_swept_while_redis_knows_no_job(
    janitor: Janitor, store: JobStore, storage: Storage, times: Times
) -> None:
    (storage.root / new_id()).mkdir()
    for _ in range(4):
        assert janitor.clean() == []
        times.pass_(100)
    assert len(storage.folders()) == 1


def test_a_deleted_job_does_not_return(janitor: Janitor, store: JobStore, storage: Storage) -> None:
    operations = Operations(store, storage)
    kept, done, failed = (job_in(state, store, storage) for state in (JobState.DONE, JobState.DONE, JobState.FAILED))
    waiting_id = job_in(JobState.QUEUED, store, storage)
    janitor.clean()
    operations.remove(done)
    operations.remove(failed)
    operations.remove(waiting_id)
    store.redis.flushall()
    janitor.clean()
    assert [job.id for job in store.list()] == [kept]


def test_a_deletion_that_redis_interrupts_leaves_nothing_to_restore(
    janitor: Janitor, store: JobStore, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations = Operations(store, storage)
    done = job_in(JobState.DONE, store, storage)
    janitor.clean()

    def fail(job_id: str) -> bool:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(store, "forget", fail)
        with pytest.raises(StoreUnavailable):
            operations.remove(done)
    store.redis.flushall()
    janitor.clean()
    with pytest.raises(NotFound):
        store.get(done)


def test_restored_jobs_belong_to_their_keys(janitor: Janitor, store: JobStore, storage: Storage) -> None:
    mine, other = (job_in(JobState.DONE, store, storage, owner) for owner in ("0123abcd", ""))
    janitor.clean()
    store.redis.flushall()
    janitor.clean()
    assert [job.id for job in store.list(owner="0123abcd")] == [mine]
    assert store.get(other).owner == ""
    operations = Operations(store, storage, Caller("0123abcd", scopes=frozenset({Scope.READ})))
    with pytest.raises(NotFound):
        operations.get(other)
    operations.remove(mine)
    assert store.redis.keys("skipvsr:owner:*") == []


def test_two_janitors_restore_a_job_once(janitor: Janitor, store: JobStore, storage: Storage) -> None:
    job_id = job_in(JobState.QUEUED, store, storage)
    janitor.clean()
    store.redis.flushall()
    assert records.restore(store, storage) == [job_id]
    assert records.restore(store, storage) == []
    assert waiting(store.redis) == [job_id]
    assert not store.restore(store.get(job_id))
    assert waiting(store.redis) == [job_id]


@pytest.mark.parametrize("kind", ["link", "pipe", "other job", "huge", "no JSON"])
def test_a_hostile_record_is_no_record(store: JobStore, storage: Storage, tmp_path: Path, kind: str) -> None:
    job_id = job_in(JobState.DONE, store, storage)
    record = storage.job_dir(job_id) / "job.json"
    records.keep(storage, store.get(job_id))
    assert records.read(storage, job_id) == store.get(job_id)
    text = record.read_text()
    record.unlink()
    if kind == "link":
        (tmp_path / "elsewhere").write_text(text)
        record.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(record)
    elif kind == "other job":
        record.write_text(text.replace(job_id, new_id()))
    elif kind == "huge":
        record.write_text(text + " " * (1 << 20))
    else:
        record.write_bytes(b"\xff{")
    assert records.read(storage, job_id) is None


def test_a_worker_without_the_folder_writes_no_record(store: JobStore, storage: Storage) -> None:
    job_id = job_in(JobState.RUNNING, store, storage)
    old = storage.take_work(job_id, 1)
    storage.take_work(job_id, 2)
    assert not records.keep(storage, store.get(job_id), through=old)
    assert not (storage.job_dir(job_id) / "job.json").exists()
    shutil.rmtree(storage.job_dir(job_id))
    assert not records.keep(storage, store.get(job_id))
    assert not storage.job_dir(job_id).exists()


def test_a_worker_survives_the_loss_of_redis(
    settings: Settings, store: JobStore, storage: Storage, tmp_path: Path
) -> None:
    """A done job is listed again, and a running job continues from its checkpoint, without a restart of the worker."""
    clip = make_clip(tmp_path / "clip.mp4", frames=40, width=96, height=64, sound=True)
    quick = settings.model_copy(update={"janitor_seconds": 0.5, "heartbeat_seconds": 0.2})
    with crew(quick, tmp_path):
        done = wait_for(store, submit(store, storage, clip))
        result = storage.result_path(done.id).read_bytes()
        job_id = submit(store, storage, clip)
        wait_for_frames(store, job_id, 8)
        wait_until(lambda: (storage.job_dir(job_id) / "job.json").exists(), 60, "no record")
        store.redis.flushall()
        wait_until(lambda: store.ids() == {done.id, job_id}, 60, "the jobs are not listed")
        assert wait_for(store, job_id).state is JobState.DONE
    assert storage.result_path(job_id).read_bytes() == result
    again = store.get(done.id)
    assert again.output == done.output
    assert again.finished_at == done.finished_at
