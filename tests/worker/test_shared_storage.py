"""Workers with data folders of their own share jobs over a real S3 server: kills, and outages of the server."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.object_storage import ObjectStorage
from jobs.schema import JobState
from jobs.settings import Settings
from jobs.storages import open_storage
from jobs.store import JobStore
from tests.support.clips import make_clip
from tests.support.crew import Worker, crew, held_crew, submit, wait_for, wait_for_frames
from tests.support.processes import wait_until
from tests.support.s3_server import S3Server, proxy, s3_server
from tests.support.stored import content


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        running.empty()
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 20 chunks with 4 frames each."""
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=80, width=96, height=64, sound=True)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 8 chunks with 4 frames each."""
    return make_clip(tmp_path_factory.mktemp("clip") / "short.mp4", frames=32, width=96, height=64, sound=True)


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update={"heartbeat_seconds": 0.1, "worker_lost_seconds": 4.0, "janitor_seconds": 600})


def opened(settings: Settings) -> ObjectStorage:
    storage = open_storage(settings)
    assert isinstance(storage, ObjectStorage)
    storage.prepare()
    return storage


def log_of(workers: list[Worker]) -> str:
    return "\n".join(worker.log for worker in workers)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_a_job_of_a_lost_machine_goes_on_on_another(
    how: signal.Signals, quick: Settings, store: JobStore, server: S3Server, short: Path, tmp_path: Path
) -> None:
    """The first machine is lost in the middle of the sixth chunk."""
    one, two, api = (server.settings(quick, tmp_path / name) for name in ("one", "two", "api"))
    files = opened(api)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with held_crew(one, tmp_path / "a", 8 + 6) as first:
        whole = content(files.result(wait_for(store, submit(store, files, short)).id))
        job_id = submit(store, files, short)
        wait_for_frames(store, job_id, 16)
        wait_until((tmp_path / "a" / "held").exists, 60, "the sixth chunk has not begun")
        first.kill(how)
        saved = store.get(job_id).progress.frames_saved
        with crew(two, tmp_path / "b") as [second]:
            job = wait_for(store, job_id, seconds=90)
            assert (job.state, job.attempt, job.deaths) == (JobState.DONE, 2, 1), second.log
            assert "resumes" in second.log
            assert second.log.count("computed") <= (32 - saved) / 4 + 1
            assert content(files.result(job_id)) == whole
            if how is signal.SIGSTOP:
                first.kill(signal.SIGCONT)
                wait_until(lambda: f"job {job_id}: another worker has the job" in first.log, 60, first.log)
                assert content(files.result(job_id)) == whole
            (folder,) = files.figures_folders(job_id)
            assert len((folder / "figures.jsonl").read_bytes().splitlines()) == 9
            scratch = tmp_path / "two" / "jobs"
            wait_until(lambda: not list(scratch.iterdir()), 60, "scratch files remain")
            ledger = files._ledgers.read(job_id)
            assert ledger is not None
            assert set(ledger.files) == {"input", "result.mp4", "figures.jsonl", "skipmap.bin"}
            assert ledger.work == {}
            kept = ledger.pieces()
            wait_until(lambda: _names(files, job_id) == kept, 60, "what the first worker sent last remains")


def _names(files: ObjectStorage, job_id: str) -> set[str]:
    return {found.key.rpartition("/")[2] for found in files._bucket.objects(f"files/{job_id}/")}


@pytest.mark.parametrize(
    ("how", "seconds"),
    [
        pytest.param("killed", 3.5, marks=pytest.mark.slow),  # longer than a worker without heartbeat is waited for
        pytest.param("killed", 60, marks=pytest.mark.slow),
        pytest.param("silent", 60, marks=pytest.mark.slow),
    ],
)
def test_a_server_that_is_away_during_a_job_costs_time_only(
    how: str, seconds: float, quick: Settings, store: JobStore, clip: Path, tmp_path: Path
) -> None:
    with s3_server(tmp_path / "s3") as server:
        server.empty()
        files = opened(server.settings(quick, tmp_path / "near"))
        with crew(server.settings(quick, tmp_path / "far"), tmp_path) as [worker]:
            whole = content(files.result(wait_for(store, submit(store, files, clip)).id))
            job_id, next_id = submit(store, files, clip), submit(store, files, clip)
            wait_for_frames(store, job_id, 8)
            if how == "killed":
                server.kill()
                _stay(seconds, worker, store, job_id)
                server.start()
            else:
                with server.silent():
                    _stay(seconds, worker, store, job_id)
            job, following = wait_for(store, job_id), wait_for(store, next_id)
            assert (job.state, job.attempt, job.deaths) == (JobState.DONE, 1, 0), worker.log
            assert (following.state, following.attempt) == (JobState.DONE, 1)
            assert content(files.result(job_id)) == content(files.result(next_id)) == whole
            assert worker.log.count("computed") == 3 * 20, "a chunk was lost"


def _stay(seconds: float, worker: Worker, store: JobStore, job_id: str) -> None:
    """Let an outage last, from the moment at which the worker notices the outage."""
    wait_until(lambda: "waits for the bucket" in worker.log, 150, f"no outage: {worker.log}")
    time.sleep(seconds)
    assert store.get(job_id).state is JobState.RUNNING


@pytest.mark.slow
def test_an_outage_of_the_bucket_costs_time_only(
    quick: Settings, store: JobStore, server: S3Server, clip: Path, tmp_path: Path
) -> None:
    with proxy(server.port) as way:
        far, near = server.settings(quick, tmp_path / "far", way.port), server.settings(quick, tmp_path / "near")
        files = opened(near)
        with crew(far, tmp_path) as workers:
            whole = content(files.result(wait_for(store, submit(store, files, clip)).id))
            job_id, next_id = submit(store, files, clip), submit(store, files, clip)
            wait_for_frames(store, job_id, 12)
            with server.silent():
                time.sleep(1)
            wait_for_frames(store, job_id, 20)
            way.delay = 0.02
            wait_for_frames(store, job_id, 24)
            way.cut()
            wait_until(lambda: "waits for the bucket" in workers[0].log, 60, "the worker does not notice the outage")
            time.sleep(quick.worker_lost_seconds + 1)  # a job that waits is not lost
            assert store.get(job_id).state is JobState.RUNNING
            way.mend()
            job, following = wait_for(store, job_id), wait_for(store, next_id)
            assert (job.state, job.attempt, job.deaths) == (JobState.DONE, 1, 0), log_of(workers)
            assert following.state is JobState.DONE
            assert content(files.result(job_id)) == content(files.result(next_id)) == whole
            assert workers[0].log.count("the bucket is back") >= 1


@pytest.mark.slow
def test_a_job_can_be_paused_and_a_worker_stopped_during_an_outage(
    quick: Settings, store: JobStore, server: S3Server, clip: Path, tmp_path: Path
) -> None:
    with proxy(server.port) as way:
        far, near = server.settings(quick, tmp_path / "far", way.port), server.settings(quick, tmp_path / "near")
        files = opened(near)
        with crew(far, tmp_path) as [worker]:
            job_id = submit(store, files, clip)
            wait_for_frames(store, job_id, 12)
            way.cut()
            wait_until(lambda: "waits for the bucket" in worker.log, 60, "the worker does not notice the outage")
            store.request_pause(job_id)
            paused = wait_for(store, job_id, JobState.PAUSED)
            assert 12 <= paused.progress.frames_saved < 80
            store.resume(job_id)
            worker.kill(signal.SIGTERM)
            assert worker.wait(60) == 0
            assert store.get(job_id).state is JobState.QUEUED
            way.mend()
        (tmp_path / "later").mkdir()
        with crew(near, tmp_path / "later") as [worker]:
            job = wait_for(store, job_id)
            assert (job.state, job.deaths) == (JobState.DONE, 0), worker.log
            assert job.progress.frames_done == 80
