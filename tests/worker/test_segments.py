"""One video over several real workers: the same bytes as from one worker, whatever happens to the workers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from jobs.bucket import Bucket
from jobs.figures import Figures
from jobs.parts import OPEN, TAKEN, PartTable
from jobs.presence import Presence
from jobs.schema import JobState
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.storages import open_storage
from jobs.store import JobStore
from tests.support.clips import make_clip, make_scenes
from tests.support.crew import Worker, crew, submit, wait_for, wait_for_frames
from tests.support.processes import wait_until
from tests.support.s3_server import s3_server
from tests.support.stored import content


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"heartbeat_seconds": 0.1, "worker_lost_seconds": 3.0, "janitor_seconds": 0.2, "min_free_gb": 0.0}
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with five cuts."""
    cuts = (37, 80, 122, 161, 203)
    return make_scenes(tmp_path_factory.mktemp("clip") / "scenes.mp4", frames=240, cuts=cuts, width=64, height=48)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip without cuts that takes two workers several seconds."""
    return make_clip(tmp_path_factory.mktemp("clip") / "long.mp4", frames=240, width=96, height=64, sound=True)


def log_of(workers: list[Worker]) -> str:
    return "\n".join(worker.log for worker in workers)


def only_files(storage: Storage, job_id: str, *names: str) -> None:
    """Wait until a job has these files and no others."""
    folder = storage.job_dir(job_id)
    wait_until(lambda: {path.name for path in folder.iterdir()} == set(names), 60, f"others: {list(folder.iterdir())}")


def helper_of(store: JobStore, workers: list[Worker], job_id: str) -> Worker:
    """The worker that computes a segment for another one, once the segment has a checkpoint."""

    def saved() -> bool:
        assert not store.get(job_id).state.final, log_of(workers)
        return any(row.state == TAKEN and row.progress.frames_saved for row in PartTable(store.redis).rows(job_id, 9))

    wait_until(saved, 60, log_of(workers))
    lead = store.get(job_id).worker
    return next(worker for worker in workers if str(worker.process.pid) not in (lead or "").split("-"))


FILES = ("input", "result.mp4", "job.json", "figures.jsonl", "skipmap.bin")


def test_two_workers_give_the_bytes_of_one(
    quick: Settings, store: JobStore, storage: Storage, scenes: Path, tmp_path: Path
) -> None:
    with crew(quick, tmp_path, 2) as workers:
        whole_id = submit(store, storage, scenes, segments="off")
        whole = wait_for(store, whole_id)
        assert whole.segments is None
        job_id = submit(store, storage, scenes, segments="4")
        job = wait_for(store, job_id)
        assert job.state is JobState.DONE, log_of(workers)
        assert "helps with segment" in log_of(workers)
        assert job.segments is not None
        assert (job.segments.total, job.segments.done, job.segments.exact_seams) == (4, 4, 3)
        assert storage.result_path(job_id).read_bytes() == storage.result_path(whole_id).read_bytes()
        assert (job.progress.frames_done, job.progress.frames_total, job.attempt) == (240, 240, 1)
        assert job.metrics.cuts == whole.metrics.cuts
        assert len(store.list()) == 2, "no segment is a job"
        only_files(storage, job_id, *FILES)
        wait_until(lambda: not store.redis.exists(f"skipvsr:parts:{job_id}"), 60, "the table remains")
        ours, theirs = (Figures.read(storage.job_dir(each)) for each in (job_id, whole_id))
        assert ours is not None
        assert theirs is not None
        assert list(ours.maps()) == list(theirs.maps())
    assert "Traceback" not in log_of(workers)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["helper", "lead"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_lost_in_a_segment_costs_no_byte(
    who: str, how: signal.Signals, quick: Settings, store: JobStore, storage: Storage, long: Path, tmp_path: Path
) -> None:
    with crew(quick, tmp_path, 2) as workers:
        whole_id = submit(store, storage, long, segments="2")
        wait_for(store, whole_id)
        job_id = submit(store, storage, long, segments="2")
        helper = helper_of(store, workers, job_id)
        lost = helper if who == "helper" else next(worker for worker in workers if worker is not helper)
        lost.kill(how)
        job = wait_for(store, job_id, seconds=90)
        assert job.state is JobState.DONE, log_of(workers)
        assert storage.result_path(job_id).read_bytes() == storage.result_path(whole_id).read_bytes()
        assert job.attempt == (1 if who == "helper" else 2)
        assert job.deaths == (1 if (who, how) == ("lead", signal.SIGKILL) else 0)
        only_files(storage, job_id, *FILES)
    frames = sum(log.count("computed") for log in (worker.log for worker in workers)) * 4
    assert frames <= 2 * 240 + 2 * 24 + 3 * 4, "finished chunks were computed again"


@pytest.mark.slow
def test_pause_resume_and_cancel_stop_all_workers(
    quick: Settings, store: JobStore, storage: Storage, long: Path, tmp_path: Path
) -> None:
    with crew(quick, tmp_path, 2) as workers:
        whole_id = submit(store, storage, long, segments="2")
        wait_for(store, whole_id)
        job_id = submit(store, storage, long, segments="2")
        helper_of(store, workers, job_id)
        store.request_pause(job_id)
        job = wait_for(store, job_id, JobState.PAUSED)
        wait_until(lambda: all(worker.job is None for worker in Presence(store.redis).workers()), 60, "still working")
        assert job.request is None
        assert 0 < job.progress.frames_saved < 240
        wait_until(lambda: PartTable(store.redis).rows(job_id, 2)[0].state == OPEN, 60, "the segment is not open")
        saved = store.get(job_id).progress.frames_saved
        store.resume(job_id)
        wait_for_frames(store, job_id, saved)
        assert wait_for(store, job_id).state is JobState.DONE, log_of(workers)
        assert storage.result_path(job_id).read_bytes() == storage.result_path(whole_id).read_bytes()

        job_id = submit(store, storage, long, segments="2")
        helper_of(store, workers, job_id)
        store.request_cancel(job_id)
        wait_for(store, job_id, JobState.CANCELLED)
        wait_until(lambda: all(worker.job is None for worker in Presence(store.redis).workers()), 60, "still working")
        wait_until(lambda: not storage.job_dir(job_id).exists(), 60, "files remain")
    assert "Traceback" not in log_of(workers)


@pytest.mark.slow
def test_workers_with_data_folders_of_their_own_share_a_job_through_a_bucket(
    quick: Settings, store: JobStore, long: Path, tmp_path: Path
) -> None:
    """The helper is killed in its segment; the lead goes on from the checkpoint in the bucket."""
    with s3_server(tmp_path / "log") as server:
        server.empty()
        one, two, api = (server.settings(quick, tmp_path / name) for name in ("one", "two", "api"))
        files = open_storage(api)
        files.prepare()
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        with crew(one, tmp_path / "a") as [first], crew(two, tmp_path / "b") as [second]:
            workers = [first, second]
            whole_id = submit(store, files, long, segments="2")
            job = wait_for(store, whole_id, seconds=90)
            assert job.state is JobState.DONE, log_of(workers)
            assert "helps with segment 1" in log_of(workers)
            whole = content(files.result(whole_id))
            job_id = submit(store, files, long, segments="2")
            helper_of(store, workers, job_id).kill()
            job = wait_for(store, job_id, seconds=90)
            assert (job.state, job.attempt) == (JobState.DONE, 1), log_of(workers)
            assert content(files.result(job_id)) == whole
            assert sum(worker.log.count("computed") for worker in workers) <= 2 * (240 + 24) / 4 + 2
            bucket = Bucket.from_settings(api)
            kept = {found.key.rpartition("-")[2] for found in bucket.objects(f"files/{job_id}/")}
            assert kept == {"input", "result.mp4", "figures.jsonl", "skipmap.bin"}
