"""Jobs survive dead workers and a dead Redis: real processes are killed, stopped and cut off."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from commands.shared.embedded_redis import EmbeddedRedis
from jobs.schema import Job, JobState
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore, connect
from tests.support.clips import make_clip
from tests.support.crew import Worker, crew, held_crew, submit, wait_for, wait_for_frames
from tests.support.processes import wait_until


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"heartbeat_seconds": 0.1, "worker_lost_seconds": 60.0, "janitor_seconds": 600, "min_free_gb": 0.0}
    )


@pytest.fixture
def watchful(quick: Settings) -> Settings:
    """Settings for workers that die. A busy machine can stop a monitor for a second or two: half of the time, after
    which the monitor starts its observation anew.
    """
    return quick.model_copy(update={"worker_lost_seconds": 4.0})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 8 chunks with 4 frames each."""
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=32, width=64, height=48, sound=True)


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "small.mp4", frames=12)


def owner(workers: list[Worker], store: JobStore, job_id: str) -> Worker:
    """The worker process of a job."""
    name = store.get(job_id).worker or ""
    return next(worker for worker in workers if f"-{worker.process.pid}-" in name)


def sixth_chunk(witness: Path) -> str:
    """Digest of the frames of the sixth chunk that a network has begun."""
    return [line.split()[2] for line in witness.read_text().splitlines() if " begin " in line][5]


def test_a_killed_workers_job_is_finished_by_another(
    watchful: Settings, store: JobStore, storage: Storage, clip: Path, tmp_path: Path
) -> None:
    witness, pause = tmp_path / "witness", tmp_path / "pause"
    files = {"WITNESS": str(witness), "WAIT": str(pause)}
    with crew(watchful, tmp_path, 2, ("-m", "tests.support.witness"), **files) as workers:
        whole_id = submit(store, storage, clip)
        wait_for(store, whole_id)
        # Both workers wait before the sixth chunk until the death is detected.
        pause.write_text(sixth_chunk(witness))
        witness.unlink()
        job_id = submit(store, storage, clip)
        wait_for_frames(store, job_id, 20)
        victim = owner(workers, store, job_id)
        busy_id = submit(store, storage, clip)  # for the other worker
        wait_for_frames(store, busy_id, 20)
        waiting_id = submit(store, storage, clip)
        victim.kill()
        wait_until(lambda: store.get(job_id).deaths == 1, 60, "the death was not detected")
        pause.unlink()
        job = wait_for(store, job_id)
        assert (job.state, job.attempt, job.deaths) == (JobState.DONE, 2, 1)
        started = wait_for(store, waiting_id).started_at
        assert job.started_at is not None
        assert started is not None
        assert job.started_at < started, "the job was not queued at the front"
        wait_for(store, busy_id)
        whole = storage.result_path(whole_id).read_bytes()
        assert all(storage.result_path(i).read_bytes() == whole for i in (job_id, busy_id, waiting_id))
        # The chunk in the encoder, and a second chunk ready for the encoder if encoding is slower than the network.
        assert chunks_computed_again(witness) <= 2
        wait_until(lambda: not list(storage.root.glob("*/work-*")), 60, "working folders remain")


def chunks_computed_again(witness: Path) -> int:
    """Number of chunks that a network computed again, apart from undisturbed jobs."""
    ends = Counter(line.split()[2] for line in witness.read_text().splitlines() if " end " in line)
    usual = Counter(ends.values()).most_common(1)[0][0]
    return sum(count - usual for count in ends.values() if count > usual)


def test_a_stopped_worker_cannot_publish(
    watchful: Settings, store: JobStore, storage: Storage, clip: Path, tmp_path: Path
) -> None:
    witness, pause = tmp_path / "witness", tmp_path / "pause"
    files = {"WITNESS": str(witness), "WAIT": str(pause)}
    with crew(watchful, tmp_path, 2, ("-m", "tests.support.witness"), **files) as workers:
        wait_for(store, submit(store, storage, clip))
        pause.write_text(sixth_chunk(witness))
        job_id = submit(store, storage, clip)
        wait_for_frames(store, job_id, 20)
        asleep = owner(workers, store, job_id)
        asleep.kill(signal.SIGSTOP)
        pause.unlink()
        job = wait_for(store, job_id)
        assert (job.state, job.attempt, job.deaths) == (JobState.DONE, 2, 1)
        result = storage.result_path(job_id)
        before = result.stat()
        asleep.kill(signal.SIGCONT)
        wait_until(lambda: f"job {job_id}: another worker has the job" in asleep.log, 60, asleep.log)
        after = result.stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns), "published once"
        assert store.get(job_id).attempt == 2
        assert store.get(job_id).state is JobState.DONE
        again = submit(store, storage, clip)
        assert wait_for(store, again).state is JobState.DONE
        assert storage.result_path(again).read_bytes() == result.read_bytes()
        assert sum(worker.log.count(f"job {job_id}: published") for worker in workers) == 1


@contextmanager
def supervised(settings: Settings, folder: Path, store: JobStore, job_id: str, **environment: str) -> Iterator[Job]:
    """Act as a supervisor: start a worker whenever the last worker has died, until the job has ended.

    Yields the job. The last worker goes on to the end of the block.
    """
    workers: list[Worker] = []

    def ended() -> bool:
        if not workers or workers[-1].process.poll() is not None:
            log, command = folder / f"{len(workers)}.log", ("-m", "tests.support.witness")
            workers.append(Worker(settings, log, command, WITNESS=str(folder / "witness"), **environment))
        return store.get(job_id).state.final

    try:
        wait_until(ended, 120, f"{job_id} has not ended")
        yield store.get(job_id)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(60)


@pytest.mark.parametrize("how", ["die", pytest.param("hang", marks=pytest.mark.slow)])
def test_a_job_that_kills_its_workers_fails_and_the_queue_continues(
    watchful: Settings, store: JobStore, storage: Storage, small_clip: Path, tmp_path: Path, how: str
) -> None:
    settings = watchful.model_copy(update={"chunk_timeout_minutes": 1 / 60, "max_deaths": 2})
    job_id, hostile = submit(store, storage, small_clip), tmp_path / "hostile"
    hostile.touch()
    trouble = {"MISBEHAVE": how, "MISBEHAVE_AT": "1", "MISBEHAVE_WHILE": str(hostile)}
    with supervised(settings, tmp_path, store, job_id, **trouble) as job:
        assert (job.state, job.deaths) == (JobState.FAILED, settings.max_deaths)
        assert job.error is not None
        assert f"{settings.max_deaths} workers in a row died while processing this job" in job.error.detail
        assert "after frame 0 of" in job.error.detail  # 12, unless each worker died before its first heartbeat
        hostile.unlink()
        assert wait_for(store, submit(store, storage, small_clip)).state is JobState.DONE


@pytest.mark.slow
def test_a_job_with_progress_between_deaths_does_not_fail(
    watchful: Settings, store: JobStore, storage: Storage, small_clip: Path, tmp_path: Path
) -> None:
    settings = watchful.model_copy(update={"max_deaths": 2})
    job_id = submit(store, storage, small_clip, chunk=2)
    with supervised(settings, tmp_path, store, job_id, MISBEHAVE="die", MISBEHAVE_AT="3") as job:
        assert job.state is JobState.DONE
        assert job.deaths >= 2


def test_an_unexpected_error_fails_the_job_but_not_the_worker(
    quick: Settings, store: JobStore, storage: Storage, small_clip: Path, tmp_path: Path
) -> None:
    worker = Worker(
        quick,
        tmp_path / "w.log",
        ("-m", "tests.support.witness"),
        WITNESS=str(tmp_path / "w"),
        MISBEHAVE="raise",
        MISBEHAVE_AT="2",
    )
    try:
        job = wait_for(store, submit(store, storage, small_clip))
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert job.error.detail == "Unexpected RuntimeError: an unexpected error"
        other = wait_for(store, submit(store, storage, small_clip))
        assert other.state is JobState.DONE
        store.resume(job.id)
        job = wait_for(store, job.id)
        assert (job.state, job.error, job.attempt) == (JobState.DONE, None, 2)
        assert f"job {job.id}: resumes" in worker.log
        assert storage.result_path(job.id).read_bytes() == storage.result_path(other.id).read_bytes()
    finally:
        worker.kill()
        worker.wait(60)


def test_out_of_memory_leads_to_smaller_chunks_and_then_to_advice(
    quick: Settings, store: JobStore, storage: Storage, small_clip: Path, tmp_path: Path
) -> None:
    worker = Worker(
        quick, tmp_path / "w.log", ("-m", "tests.support.witness"), WITNESS=str(tmp_path / "w"), MISBEHAVE="memory"
    )
    try:
        job = wait_for(store, submit(store, storage, small_clip, chunk=8, lookahead=0))
        assert job.state is JobState.DONE
        assert job.warnings == ["The device ran out of memory: the job used chunks of 2 frames."]
        job = wait_for(store, submit(store, storage, small_clip, chunk=16, lookahead=0))
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert "smaller chunk" in job.error.detail
    finally:
        worker.kill()
        worker.wait(60)


def test_a_worker_whose_device_failed_hands_its_job_back_and_ends(
    quick: Settings, store: JobStore, storage: Storage, small_clip: Path, tmp_path: Path
) -> None:
    job_id = submit(store, storage, small_clip)
    worker = Worker(
        quick,
        tmp_path / "w.log",
        ("-m", "tests.support.witness"),
        WITNESS=str(tmp_path / "w"),
        MISBEHAVE="device",
        MISBEHAVE_AT="3",
    )
    assert worker.wait(60) == 70
    job = store.get(job_id)
    assert (job.state, job.attempt, job.deaths) == (JobState.QUEUED, 1, 0)
    assert job.progress.frames_saved in (4, 8), "finished chunks are lost"
    (warning,) = job.warnings
    assert warning.startswith("The compute device of a worker failed (")
    assert "CUDA error: an illegal memory access was encountered). All finished chunks were kept." in warning
    assert "a supervisor starts a new process" in worker.log
    waiting = submit(store, storage, small_clip)
    with crew(quick, tmp_path):
        job = wait_for(store, job_id)
        assert (job.state, job.attempt, job.warnings) == (JobState.DONE, 2, [warning])
        assert wait_for(store, waiting).started_at > job.started_at, "the job was not queued at the front"  # type: ignore[operator]
        assert storage.result_path(job_id).read_bytes() == storage.result_path(waiting).read_bytes()


def test_a_job_fails_after_its_timeout(
    quick: Settings, redis: Redis, storage: Storage, small_clip: Path, tmp_path: Path
) -> None:
    strict = JobStore(redis, job_timeout=1)
    with held_crew(quick, tmp_path, 1) as worker:
        job = wait_for(strict, submit(strict, storage, small_clip))
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert "SKIPVSR_JOB_TIMEOUT_HOURS" in job.error.detail
        assert worker.process.poll() is None


@pytest.mark.slow
def test_redis_killed_and_restarted_mid_job_twice(quick: Settings, storage: Storage, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=48, width=64, height=48, sound=True)
    folder = tmp_path / "redis"
    server = EmbeddedRedis(folder)
    server.__enter__()
    try:
        settings = quick.model_copy(update={"redis_url": server.url})
        with crew(settings, tmp_path, 2) as workers, connect(server.url) as client:
            store = JobStore(client)
            job_ids = [submit(store, storage, clip) for _ in range(3)]
            for frames, away in ((12, 0.2), (40, 2.5)):
                wait_for_frames(store, job_ids[0], frames)
                assert server.process is not None
                server.process.kill()
                server.process.wait(60)
                time.sleep(away)
                server = EmbeddedRedis(folder)
                server.__enter__()
            jobs = [wait_for(store, job_id) for job_id in job_ids]
            assert [(job.state, job.deaths) for job in jobs] == [(JobState.DONE, 0)] * 3
            assert jobs[0].attempt == 1, "the job ran twice"
            assert len({storage.result_path(job_id).read_bytes() for job_id in job_ids}) == 1
            assert all(worker.process.poll() is None for worker in workers)
            log = "".join(worker.log for worker in workers)
            assert "the job continues" in log
            assert "Redis is back" in log
    finally:
        server.stop()


def test_a_worker_waits_for_redis_and_stops_without_it(quick: Settings, tmp_path: Path) -> None:
    nobody = quick.model_copy(update={"redis_url": f"unix://{tmp_path / 'nothing.sock'}"})
    with crew(nobody, tmp_path) as (worker,):
        wait_until(lambda: "trying again" in worker.log, 60, worker.log)
        worker.kill(signal.SIGTERM)
        assert worker.wait(60) == 0, worker.log
    assert "Traceback" not in worker.log
