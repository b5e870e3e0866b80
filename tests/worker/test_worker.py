"""A real worker process with a real Redis and real files."""

from __future__ import annotations

import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from jobs import tickets
from jobs.figures import FILES, Figures
from jobs.presence import Presence
from jobs.schema import Job, JobState, Priority, Request
from jobs.settings import Settings
from jobs.storage import Storage
from jobs.store import JobStore
from jobs.tickets import QUEUES, SERIALIZER, FairQueue
from tests.support.clips import make_clip, times_of
from tests.support.crew import Worker, crew, held_crew, ready, submit, wait_for, wait_for_frames
from tests.support.ports import free_port
from tests.support.processes import wait_until
from worker.rq_worker import WarmWorker

STOPPING = "stopping after the chunk in work"
"""The worker's line about the first signal."""


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"heartbeat_seconds": 0.1, "worker_lost_seconds": 60.0, "janitor_seconds": 0.2, "min_free_gb": 0.0}
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=40, sound=True)


def _wait_for_files(storage: Storage, job_id: str, *names: str) -> None:
    """Wait until a finished job has only these files; the worker removes checkpoints after the release."""

    def only_these() -> bool:
        return {path.name for path in storage.job_dir(job_id).iterdir()} == {*names, "job.json"}

    wait_until(only_these, 60, f"job {job_id} has other files than {names}")


def test_jobs_finish_and_leave_nothing_behind(
    quick: Settings, store: JobStore, storage: Storage, clip: Path, tmp_path: Path
) -> None:
    with crew(quick, tmp_path) as (worker,):
        wait_until(
            lambda: [w.model for w in Presence(store.redis).workers()] == ["tiny"], 60, "the worker is not announced"
        )
        job_ids = [submit(store, storage, clip) for _ in range(2)]
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"\0" * 1000)
        broken_id = submit(store, storage, broken)
        unknown_id = submit(store, storage, clip, model="no-such-model")
        empty_id = submit(store, storage, clip)
        storage.remove(empty_id)
        webm_id = submit(store, storage, clip, container="webm")
        jobs = [wait_for(store, job_id) for job_id in job_ids]
        assert [job.state for job in jobs] == ["done", "done"]
        job = jobs[0]
        result = storage.result_path(job.id)
        assert times_of(result) == times_of(clip)
        assert job.output is not None
        assert (job.output.width, job.output.height, job.output.frames, job.output.audio) == (128, 96, 40, ["aac"])
        assert (job.progress.frames_done, job.progress.frames_total, job.attempt, job.deaths) == (40, 40, 1, 0)
        metrics = job.metrics
        assert metrics.queue_seconds is not None
        assert metrics.processing_seconds is not None
        assert 0 < metrics.model_seconds < metrics.processing_seconds
        assert len(metrics.chunk_seconds) == 10
        assert 0 <= metrics.reuse_ratio <= metrics.skip_ratio < 1
        assert job.model == "tiny"
        assert metrics.speedup > 0
        _wait_for_files(storage, job.id, "input", "result.mp4", *FILES)
        assert result.read_bytes() == storage.result_path(job_ids[1]).read_bytes()
        webm = wait_for(store, webm_id)
        assert webm.output is not None
        assert (webm.output.container, webm.output.codec, webm.output.audio) == ("webm", "av1", ["opus"])
        assert webm.output.frames == 40, "WebM does not state the number"
        _wait_for_files(storage, webm_id, "input", "result.webm", *FILES)
        assert any("converted to opus" in warning for warning in webm.warnings)

        failed = wait_for(store, broken_id)
        assert failed.state is JobState.FAILED
        assert failed.error is not None
        assert failed.error.status in (415, 422)
        _wait_for_files(storage, broken_id, "input")
        failed = wait_for(store, unknown_id)
        assert failed.error is not None
        assert "no-such-model" in failed.error.detail
        failed = wait_for(store, empty_id)
        assert failed.state is JobState.FAILED
        assert failed.error is not None
        assert "files are gone" in failed.error.detail

        worker.kill(signal.SIGTERM)
        assert worker.wait(60) == 0, worker.log
    assert "Traceback" not in worker.log
    assert Presence(store.redis).workers() == []
    names = ("jobs", "fence", "tickets", "complete", "change", "changes", "state:done", "state:failed")
    ours = {f"skipvsr:{name}".encode() for name in names}
    left = {key for key in store.redis.scan_iter() if not key.startswith(b"skipvsr:job:")} - ours
    assert all(key.startswith((b"rq:worker:", b"rq:queues", b"rq:clean_", b"skipvsr:speed:")) for key in left), left


@pytest.mark.slow
def test_high_priority_jobs_start_first(
    quick: Settings, store: JobStore, storage: Storage, clip: Path, tmp_path: Path
) -> None:
    ids = {priority: submit(store, storage, clip, priority=priority) for priority in ("low", "normal", "high")}
    with crew(quick, tmp_path):
        jobs = {priority: wait_for(store, job_id) for priority, job_id in ids.items()}
    started = {priority: job.started_at for priority, job in jobs.items()}
    assert sorted(started, key=lambda priority: started[priority] or 0) == ["high", "normal", "low"]


def _in_chunk(store: JobStore, job_id: str, frames: int) -> Job:
    """A job that has done a number of frames, some of them in a chunk that waits in its middle."""
    wait_until(lambda: store.get(job_id).progress.frames_done >= frames, 60, "no frames")
    return store.get(job_id)


def test_cancel_stops_a_running_job_in_the_middle_of_a_chunk(
    settings: Settings, store: JobStore, storage: Storage, clip: Path, tmp_path: Path
) -> None:
    """With the default heartbeat, and progress from the first frames on."""
    with held_crew(settings.model_copy(update={"min_free_gb": 0.0}), tmp_path, 1) as worker:
        job_id = submit(store, storage, clip, chunk=256)
        progress = _in_chunk(store, job_id, 1).progress
        assert progress.fps
        assert progress.eta_seconds
        assert store.request_cancel(job_id) is JobState.RUNNING
        assert store.get(job_id).request is Request.CANCEL
        job = wait_for(store, job_id, JobState.CANCELLED)
        assert job.request is None
        assert job.progress.frames_done == 0, "the chunk in work is dropped"
        assert not storage.job_dir(job_id).exists()
        assert wait_for(store, submit(store, storage, clip)).state is JobState.DONE, worker.log


def test_heartbeats_outside_of_rq_s_loop_write_no_records(redis: Redis) -> None:
    """The two run in different threads. RQ mistook an early heartbeat for another worker, once in 200 starts."""
    worker = WarmWorker(
        list(QUEUES.values()),
        lambda job_id: None,
        name="w",
        connection=redis,
        ttl=60,
        on_stop=lambda: None,
        on_force_stop=lambda: None,
        stopping=lambda: False,
    )
    worker.renew_records(redis)
    worker.register_birth()
    redis.persist(worker.key)
    worker.renew_records(redis)
    assert redis.ttl(worker.key) > 0, "a registered worker renews its record"
    worker.register_death()
    redis.persist(worker.key)
    worker.renew_records(redis)
    assert redis.ttl(worker.key) == -1, "a deregistered worker renews no record"


def test_pause_and_resume(quick: Settings, store: JobStore, storage: Storage, clip: Path, tmp_path: Path) -> None:
    """Pause in the middle of the first chunk, and of the second one.

    Before the last resumption, Redis is restored from an old copy, which holds a smaller token than the name of the
    working folder.
    """
    with held_crew(quick, tmp_path, 3, 5) as worker:
        whole_id = submit(store, storage, clip, chunk=20)
        wait_for(store, whole_id)
        job_id = submit(store, storage, clip, chunk=20)
        assert _in_chunk(store, job_id, 5).progress.frames_saved == 0
        store.request_pause(job_id)
        assert store.get(job_id).request is Request.PAUSE
        job = wait_for(store, job_id, JobState.PAUSED)
        assert (job.request, job.progress.frames_done) == (None, 0)
        store.resume(job_id)
        _in_chunk(store, job_id, 25)
        wait_for_frames(store, job_id, 20)  # the encoder may be behind the network
        store.request_pause(job_id)
        assert wait_for(store, job_id, JobState.PAUSED).progress.frames_done == 20
        (folder,) = storage.job_dir(job_id).glob("work-*")
        folder.rename(folder.with_name("work-5000"))
        store.resume(job_id)
        job = wait_for(store, job_id)
        assert (job.state, job.attempt, job.deaths) == (JobState.DONE, 3, 0)
        assert storage.result_path(job_id).read_bytes() == storage.result_path(whole_id).read_bytes()
        assert f"job {job_id}: resumes" in worker.log
        whole, resumed = (Figures.read(storage.job_dir(each)) for each in (whole_id, job_id))
        assert whole is not None
        assert resumed is not None
        assert (resumed.facts.resumed, whole.facts.resumed) == (True, False)
        assert [chunk.first for chunk in resumed.chunks] == [chunk.first for chunk in whole.chunks] == [0, 20]
        assert list(resumed.maps()) == list(whole.maps())


def test_sigterm_requeues_the_job_and_another_worker_finishes(
    quick: Settings, store: JobStore, storage: Storage, clip: Path, tmp_path: Path
) -> None:
    """The signal comes in the middle of the third chunk."""
    with held_crew(quick, tmp_path, 3) as first:
        job_id = submit(store, storage, clip)
        wait_for_frames(store, job_id, 8)
        wait_until((tmp_path / "held").exists, 60, "the third chunk has not begun")
        first.kill(signal.SIGTERM)
        wait_until(lambda: STOPPING in first.log, 60, first.log)
        (tmp_path / "held").unlink()
        assert first.wait(60) == 0, first.log
        job = store.get(job_id)
        assert (job.state, job.deaths) == (JobState.QUEUED, 0)
        assert 8 <= job.progress.frames_done < 40
    (tmp_path / "two").mkdir()
    with crew(quick, tmp_path / "two") as (second,):
        whole_id = submit(store, storage, clip)
        job = wait_for(store, job_id)
        assert (job.state, job.attempt, job.deaths) == (JobState.DONE, 2, 0)
        wait_for(store, whole_id)
        assert storage.result_path(job_id).read_bytes() == storage.result_path(whole_id).read_bytes()
        assert f"job {job_id}: resumes" in second.log


@contextmanager
def hanging(settings: Settings, folder: Path) -> Iterator[Worker]:
    """A worker whose network hangs in the first chunk."""
    environment = {"WITNESS": str(folder / "witness"), "MISBEHAVE": "hang", "MISBEHAVE_AT": "1"}
    with crew(settings, folder, 1, ("-m", "tests.support.witness"), **environment) as (worker,):
        yield worker


def test_a_second_sigterm_ends_the_process_at_once(
    quick: Settings, store: JobStore, storage: Storage, clip: Path, tmp_path: Path
) -> None:
    with hanging(quick.model_copy(update={"stop_grace_seconds": 600.0}), tmp_path) as worker:
        job_id = submit(store, storage, clip)
        wait_until((tmp_path / "witness").exists, 60, "the network was not called")
        worker.kill(signal.SIGTERM)
        wait_until(lambda: STOPPING in worker.log, 60, worker.log)
        time.sleep(1.1)  # signals within a second count as one
        worker.kill(signal.SIGTERM)
        assert worker.wait(60) == 1, worker.log
        assert store.get(job_id).state is JobState.QUEUED, "requeued before the exit"


def test_a_chunk_is_abandoned_after_the_grace_period(
    quick: Settings, store: JobStore, storage: Storage, clip: Path, tmp_path: Path
) -> None:
    impatient = quick.model_copy(update={"stop_grace_seconds": 0.5})
    with hanging(impatient, tmp_path) as worker:
        job_id = submit(store, storage, clip)
        wait_until((tmp_path / "witness").exists, 60, "the network was not called")
        worker.kill(signal.SIGTERM)
        assert worker.wait(50) == 0, worker.log  # less than the default of a minute
        assert store.get(job_id).state is JobState.QUEUED


def test_an_idle_worker_stops_and_a_worker_without_its_model_fails(quick: Settings, tmp_path: Path) -> None:
    with crew(quick, tmp_path) as (worker,):
        worker.kill(signal.SIGINT)
        assert worker.wait(60) == 0, worker.log
    lost = Worker(quick.model_copy(update={"model": "nonsense"}), tmp_path / "lost.log")
    assert lost.wait(60) == 1
    (line,) = [line for line in lost.log.splitlines() if " INFO " not in line]
    assert "nonsense" in line


def test_metrics_are_served(quick: Settings, store: JobStore, storage: Storage, clip: Path, tmp_path: Path) -> None:
    port = free_port()
    with crew(quick.model_copy(update={"worker_metrics_port": port}), tmp_path) as (worker,):
        ready(worker)
        wait_for(store, submit(store, storage, clip))

        def page() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                return str(answer.read().decode())

        wait_until(lambda: 'skipvsr_job_seconds_count{model="tiny",outcome="done"} 1.0' in page(), 60, page())
        with pytest.raises(ConnectionRefusedError):  # 127.0.0.2: only a server on all addresses answers
            socket.create_connection(("127.0.0.2", port), 60)
        assert 'skipvsr_frames_total{model="tiny"} 40.0' in page()
        assert 'skipvsr_job_skip_ratio_count{model="tiny"} 1.0' in page()
        assert 'skipvsr_stage_seconds_count{stage="decode"}' in page()


def test_a_worker_without_write_permission_fails_in_one_line(quick: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bad = quick.model_copy(update={"data_dir": tmp_path / "file" / "data"})
    worker = Worker(bad, tmp_path / "worker.log")
    assert worker.wait(60) == 1
    assert "Traceback" not in worker.log


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Restore the handlers that RQ's loop replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signal_handlers")
def test_tickets_never_choose_the_function(redis: Redis) -> None:
    """Whoever writes to Redis must not execute code in the worker."""
    ran: list[str] = []
    queue = FairQueue(QUEUES[Priority.NORMAL], connection=redis, serializer=SERIALIZER)
    queue.enqueue("os.abort", "some job")
    worker = WarmWorker(
        list(QUEUES.values()),
        ran.append,
        name="w",
        connection=redis,
        ttl=60,
        on_stop=lambda: None,
        on_force_stop=lambda: None,
        stopping=lambda: False,
    )
    worker.work(burst=True, logging_level="WARNING")
    assert ran == []
    assert tickets.waiting(redis) == []
