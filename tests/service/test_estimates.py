"""Estimates of jobs and places in the queue, from what workers have measured."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis as redis_client

from jobs import lines
from jobs.lines import Line, Place
from jobs.presence import Presence, WorkerInfo
from jobs.schema import Estimate, Job, JobOptions, JobState, Priority, Progress
from jobs.settings import Settings
from jobs.speed import Rates
from jobs.speed_records import RedisSpeeds
from jobs.storage import Storage, new_id
from jobs.store import JobStore, connect
from service.admission import Admission, admit
from service.operations import Operations
from tests.support.clips import make_clip
from tests.support.media import write_clip

RATES = Rates(network={"tiny": 1e-6, "small": 1e-5}, pixels=36_864, grows=False, encode=1e-8, shared=True)


@pytest.fixture
def operations(store: JobStore, storage: Storage) -> Operations:
    return Operations(store, storage)


@pytest.fixture(scope="module")
def admission(tmp_path_factory: pytest.TempPathFactory) -> Admission:
    clip = make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=50, width=64, height=48)
    return admit(clip, JobOptions(routing="off"), Settings(), 4)


def announce(
    redis: redis_client.Redis, name: str, machine: str = "here", model: str = "tiny", model_x2: str = ""
) -> None:
    worker = WorkerInfo(
        name=name,
        host="here",
        pid=1,
        device="cpu",
        model=model,
        model_x2=model_x2,
        models=["small", "tiny"],
        machine=machine,
        started_at=datetime.now(UTC),
    )
    Presence(redis).announce(worker, ttl=60)


def queue(store: JobStore, seconds: float | None, priority: Priority = Priority.NORMAL) -> str:
    known = seconds is not None
    estimate = Estimate(
        seconds=seconds or 0, seconds_low=1, seconds_high=2, width=8, height=8, frames=9, bytes=9, basis="measured"
    )
    options = JobOptions(priority=priority)
    job = Job(id=new_id(), filename="clip.mp4", options=options, estimate=estimate if known else None)
    store.create(job)
    return job.id


def waits(operations: Operations, *ids: str) -> list[tuple[int, float | None]]:
    places = [operations.get(job_id).queue for job_id in ids]
    return [(place.position, place.wait_seconds) for place in places if place is not None]


def test_an_estimate_needs_a_worker_and_its_speed(
    operations: Operations, redis: redis_client.Redis, admission: Admission
) -> None:
    answer = operations.estimates.answer(admission)
    assert (answer.estimate, answer.workers, answer.model, answer.wait_seconds) == (None, 0, "auto", None)
    assert any("No worker" in warning for warning in answer.warnings)
    announce(redis, "w1", machine="unknown")
    answer = Operations(operations.store, operations.storage).estimates.answer(admission)
    assert (answer.estimate, answer.workers, answer.model, answer.wait_seconds) == (None, 1, "tiny", 0.0)
    assert any("speed" in warning for warning in answer.warnings)
    assert answer.bytes


def test_an_estimate_of_the_calibrated_workers(
    store: JobStore, storage: Storage, redis: redis_client.Redis, admission: Admission
) -> None:
    RedisSpeeds(redis).calibrated("here", RATES)
    RedisSpeeds(redis).calibrated("slow", RATES.model_copy(update={"network": {"tiny": 1e-4}, "encode": 0.0}))
    announce(redis, "w1")
    one = Operations(store, storage).estimates.answer(admission).estimate
    assert one is not None
    assert one.seconds == pytest.approx(1.5 + 50 * (64 * 48 * 1e-6 * (1 + 2 / 24) + 256 * 192e-8), abs=0.1)
    assert (one.width, one.height, one.frames, one.basis) == (256, 192, 50, "calibrated")
    announce(redis, "w2", machine="slow")
    both = Operations(store, storage).estimates.answer(admission).estimate
    assert both is not None
    assert both.seconds > 5 * one.seconds
    assert both.seconds_low == one.seconds_low


def test_an_estimate_names_the_network_for_the_size(
    store: JobStore, storage: Storage, redis: redis_client.Redis, admission: Admission, tmp_path: Path
) -> None:
    announce(redis, "w1", model="small", model_x2="small-x2")
    estimates, clip = Operations(store, storage).estimates, make_clip(tmp_path / "clip.mp4", width=64, height=48)
    for options, model in (
        ({}, "small"),
        ({"scale": 2}, "small-x2"),
        ({"height": 96}, "small-x2"),
        ({"scale": 3}, "small"),
    ):
        admitted = admit(clip, JobOptions.model_validate(options), Settings(), 4)
        assert estimates.answer(admitted).model == model


def test_a_file_that_states_only_its_duration_has_an_estimate(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", times=range(50))
    admitted = admit(clip, JobOptions(), Settings())
    assert (admitted.frames, admitted.expected_frames) == (None, 50)


def test_a_new_job_has_its_estimate_and_place(
    store: JobStore, storage: Storage, redis: redis_client.Redis, admission: Admission, tmp_path: Path
) -> None:
    RedisSpeeds(redis).calibrated("here", RATES)
    announce(redis, "w1")
    operations = Operations(store, storage)
    with operations.upload() as incoming:
        incoming.write(b"video")
        incoming.close()
        made = operations.submit(incoming.path, "clip.mp4", admission)
    job = operations.get(made.id)
    assert job.estimate is not None
    assert job.estimate == operations.estimates.of(admission)
    assert job.queue is not None
    assert (job.queue.position, job.queue.wait_seconds) == (1, 0.0)
    assert store.claim(made.id, "w1")
    assert operations.get(made.id).queue is None
    assert store.get(made.id).queue is None


def test_waits_follow_priority_and_estimates(
    operations: Operations, store: JobStore, redis: redis_client.Redis
) -> None:
    announce(redis, "w1")
    announce(redis, "w2")
    low = queue(store, 7, Priority.LOW)
    jobs = [queue(store, 10), queue(store, 30), queue(store, 5)]
    high = queue(store, 100, Priority.HIGH)
    assert waits(operations, high, *jobs, low) == [(1, 0), (2, 0), (3, 10), (4, 40), (5, 45)]
    listed = {job.id: job.queue for job in operations.recent()}
    assert [listed[job_id] for job_id in (high, low)] == [operations.get(job_id).queue for job_id in (high, low)]


def test_running_jobs_come_first(operations: Operations, store: JobStore, redis: redis_client.Redis) -> None:
    announce(redis, "w1")
    running, waiting = queue(store, 50), queue(store, 10)
    claim = store.claim(running, "w1")
    assert claim is not None
    assert waits(operations, waiting) == [(1, 50)]
    store.heartbeat(claim, {"progress": Progress(frames_done=5, frames_total=10, fps=1.0, eta_seconds=20.0)})
    assert waits(Operations(store, operations.storage), waiting) == [(1, 20)]


def test_a_wait_that_nobody_knows_is_null(operations: Operations, store: JobStore, redis: redis_client.Redis) -> None:
    first, second = queue(store, None), queue(store, None)
    assert waits(operations, first, second) == [(1, None), (2, None)]  # no worker
    announce(redis, "w1")
    assert waits(Operations(store, operations.storage), first, second) == [(1, 0.0), (2, None)]
    third, fourth = queue(store, 8), queue(store, 4)
    usual = [(1, 0.0), (2, 6.0), (3, 12.0), (4, 20.0)]
    assert waits(Operations(store, operations.storage), first, second, third, fourth) == usual


def test_documents_do_without_places_while_redis_is_down(store: JobStore, storage: Storage) -> None:
    job = store.get(queue(store, 10))
    gone = JobStore(connect("redis://127.0.0.1:1", timeout=0.2, attempts=0))
    assert Operations(gone, storage).estimates.place([job]) == [job]


def test_a_page_of_500_jobs_among_10000(operations: Operations, store: JobStore, redis: redis_client.Redis) -> None:
    announce(redis, "w1")
    model = Job(id=queue(store, 10), filename="clip.mp4", options=JobOptions())
    key = f"skipvsr:job:{model.id}"
    fields = redis.hgetall(key)
    with redis.pipeline(transaction=False) as pipe:
        for number in range(10_000):
            job_id = f"{number:024x}"
            pipe.hset(f"skipvsr:job:{job_id}", mapping={**fields, b"id": f'"{job_id}"'})
            pipe.zadd("skipvsr:jobs", {job_id: number})
            pipe.sadd("skipvsr:state:queued", job_id)
            lines.push(pipe, Line(Priority.NORMAL), f"{job_id}-{number}", Place.BACK)
        pipe.execute()
    operations.recent(limit=500)  # reads every new estimate once
    begun = time.process_time()
    found = operations.recent(limit=500)
    cached = time.process_time() - begun
    assert all(job.queue is not None for job in found if job.state is JobState.QUEUED)
    begun = time.process_time()
    store.list(limit=500)
    assert cached < 2 * (time.process_time() - begun) + 1  # every estimate anew takes several seconds
