"""Upkeep of a bucket: retention, orphans, a loss of Redis, and what a look at many jobs costs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs import records
from jobs.bucket import Bucket
from jobs.object_storage import ObjectStorage
from jobs.schema import Job, JobOptions, JobState, Progress
from jobs.settings import Settings
from jobs.storage import new_id
from jobs.storages import open_storage
from jobs.store import JobStore
from tests.support.s3_server import S3Server, s3_server
from tests.support.stored import content
from worker.janitor import Janitor


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def shared(server: S3Server, settings: Settings, tmp_path: Path) -> Settings:
    server.empty()
    return server.settings(settings, tmp_path / "one")


@pytest.fixture
def files(shared: Settings) -> ObjectStorage:
    storage = open_storage(shared)
    assert isinstance(storage, ObjectStorage)
    storage.prepare()
    return storage


class Clock:
    """Wall clock and monotonic clock of a janitor."""

    seconds = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


def finished(store: JobStore, files: ObjectStorage) -> str:
    """A job with a result, whose worker died before it cleaned up."""
    job_id = submitted(store, files)
    claim = store.claim(job_id, "worker")
    assert claim is not None
    work = files.take_work(job_id, claim.token)
    (work / "segment-000000.mp4").write_bytes(b"segment")
    files.save(job_id, work)
    (work / "result.mp4").write_bytes(b"result")
    files.publish(work / "result.mp4", job_id)
    store.release(claim, JobState.DONE, {"finished_at": datetime.now(UTC)})
    records.keep(files, store.get(job_id))
    files.leave(job_id)
    return job_id


def submitted(store: JobStore, files: ObjectStorage) -> str:
    job = Job(id=new_id(), filename="clip.mp4", options=JobOptions(), progress=Progress())
    upload = files.uploads / f"{job.id}.part"
    upload.write_bytes(b"video")
    files.adopt(upload, job.id)
    upload.unlink()
    store.create(job)
    records.keep(files, job, replaces=None)
    return job.id


def janitor(settings: Settings, store: JobStore, clock: Clock) -> Janitor:
    return Janitor(settings, store, open_storage(settings), now=clock.now, clock=clock.monotonic)


def keys(files: ObjectStorage) -> list[str]:
    return [found.key for found in files._bucket.objects("")]


def test_files_are_removed_when_their_time_ends(shared: Settings, store: JobStore, files: ObjectStorage) -> None:
    job_id, waiting = finished(store, files), submitted(store, files)
    clock = Clock()
    keeper = janitor(shared, store, clock)
    keeper.clean()
    assert content(files.result(job_id)) == b"result"
    clock.seconds = 60
    keeper.clean()
    ledger = files._ledgers.read(job_id)
    assert ledger is not None
    assert ledger.work == {}, "left by the worker that died"
    assert sorted(ledger.files) == ["input", "result.mp4"]
    clock.seconds = (shared.input_ttl_hours + 1) * 3600
    keeper.clean()
    assert files.input(job_id) is None
    assert content(files.result(job_id)) == b"result"
    clock.seconds = (shared.result_ttl_hours + 1) * 3600
    keeper.clean()
    assert not [key for key in keys(files) if job_id in key]
    assert content(files.input(waiting)) == b"video", "a waiting job keeps its files"
    assert not [path for path in files.root.iterdir() if path.name == job_id], "scratch of an hour ago"


def test_files_without_a_job_are_removed(shared: Settings, store: JobStore, files: ObjectStorage) -> None:
    waiting = submitted(store, files)
    lost, bare, stale = new_id(), new_id(), new_id()
    for job_id in (lost, stale):
        upload = files.uploads / f"{job_id}.part"
        upload.write_bytes(b"video")
        if job_id == lost:
            files.adopt(upload, job_id)
            upload.unlink()
    files._bucket.put(f"files/{bare}/0-input", b"video")
    clock = Clock()
    keeper = janitor(shared, store, clock)
    keeper.clean()
    assert {lost, bare} <= {key.split("/")[1].removesuffix(".json") for key in keys(files)}
    store.forget(lost)
    store.redis.zrem("skipvsr:jobs", lost)
    clock.seconds = shared.orphan_minutes * 60 + 1
    removed = " ".join(keeper.clean())
    assert {key.split("/")[1].removesuffix(".json") for key in keys(files)} <= {waiting, lost}
    assert bare in removed
    assert stale in removed
    assert content(files.input(waiting)) == b"video"


def test_lost_jobs_are_listed_again_from_the_bucket(shared: Settings, store: JobStore, files: ObjectStorage) -> None:
    done, waiting = finished(store, files), submitted(store, files)
    store.redis.flushall()
    assert sorted(records.restore(store, files)) == sorted([done, waiting])
    assert store.get(done).state is JobState.DONE
    assert store.get(waiting).state is JobState.QUEUED
    assert store.get(waiting).filename == "clip.mp4"


def test_a_second_look_fetches_changed_ledgers_only(
    shared: Settings, store: JobStore, files: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [finished(store, files) for _ in range(5)]
    clock = Clock()
    keeper = janitor(shared, store, clock)
    keeper.clean()
    clock.seconds = 60
    keeper.clean()
    keeper.clean()
    fetched: list[str] = []
    get = Bucket.get

    def counted(self: Bucket, key: str) -> tuple[bytes, str]:
        fetched.append(key)
        return get(self, key)

    monkeypatch.setattr(Bucket, "get", counted)
    keeper.clean()
    assert fetched == []
    files.write_record(ids[0], store.get(ids[0]).model_dump_json())
    fetched.clear()
    keeper.clean()
    assert set(fetched) == {f"jobs/{ids[0]}.json"}
