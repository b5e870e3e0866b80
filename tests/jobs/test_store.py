"""The store with a real Redis: documents, transitions, tokens and tickets."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from redis import Redis
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job as Ticket

from jobs import lines, tickets
from jobs.errors import NotFound, NotReady, StoreUnavailable
from jobs.lines import Place
from jobs.presence import Duty, Presence, WorkerInfo
from jobs.schema import Job, JobMetrics, JobOptions, JobState, Priority, Progress
from jobs.storage import new_id
from jobs.store import JobStore, connect
from tests.support.processes import wait_until


@pytest.fixture
def store(redis: Redis) -> JobStore:
    return JobStore(redis)


def queued(store: JobStore, priority: Priority = Priority.NORMAL) -> str:
    job = Job(id=new_id(), filename="clip.mp4", options=JobOptions(priority=priority))
    store.create(job)
    return job.id


def test_a_document_survives_the_round_trip(store: JobStore) -> None:
    job = Job(
        id=new_id(),
        filename="Ümläut 'clip'.mp4",
        options=JobOptions(model="tiny", scale=2),
        progress=Progress(frames_total=7),
        warnings=["one"],
    )
    store.create(job)
    found = store.get(job.id)
    assert found.updated_at is not None
    assert abs(found.updated_at - job.created_at).total_seconds() < 60
    assert found.model_copy(update={"updated_at": None}) == job


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    for act in (store.get, store.request_cancel, store.request_pause, store.resume, store.enqueue):
        with pytest.raises(NotFound, match="no job"):
            act("0" * 24)
    assert store.claim("0" * 24, "w") is None


def test_list_sorts_by_age_and_filters_by_state(store: JobStore) -> None:
    ids = [queued(store) for _ in range(5)]
    store.request_pause(ids[2])
    assert [job.id for job in store.list()] == ids[::-1]
    assert [job.id for job in store.list(state=JobState.PAUSED)] == [ids[2]]
    assert [job.id for job in store.list(limit=2, offset=1)] == [ids[3], ids[2]]
    assert store.counts()[JobState.QUEUED] == 4


def test_only_one_of_many_workers_claims_a_job(store: JobStore) -> None:
    job_id, claims = queued(store), []
    threads = [threading.Thread(target=lambda: claims.append(store.claim(job_id, "w"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in claims if claim is not None]) == 1
    job = store.get(job_id)
    assert (job.state, job.attempt, job.worker) == (JobState.RUNNING, 1, "w")


def test_queue_order_follows_priority_and_age(store: JobStore) -> None:
    low, first, second = queued(store, Priority.LOW), queued(store), queued(store)
    high = queued(store, Priority.HIGH)
    assert tickets.waiting(store.redis) == [high, first, second, low]
    store.enqueue(second, Place.FIRST)
    assert tickets.waiting(store.redis) == [high, second, first, low], "the ticket moves and has no duplicate"


def test_a_lost_ticket_is_detected_and_replaced(store: JobStore) -> None:
    job_id = queued(store)
    assert lines.take(store.redis), "a worker took the ticket and died"
    assert store.without_ticket() == {job_id}
    store.enqueue(job_id, Place.FIRST)
    assert store.without_ticket() == set()


def test_a_ticket_may_vanish_while_the_store_drops_the_ticket(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends the ticket after a pause, just when a user resumes the job."""
    job_id, fetch = queued(store), Ticket.fetch

    def fetch_and_delete(ticket_id: str, **kwargs: Any) -> Ticket:
        ticket = fetch(ticket_id, **kwargs)
        store.redis.delete(ticket.key)
        return ticket

    monkeypatch.setattr(Ticket, "fetch", fetch_and_delete)
    store.enqueue(job_id, Place.FIRST)
    assert tickets.waiting(store.redis) == [job_id]
    assert len(store.redis.keys("rq:job:*")) == 1


def begin(store: JobStore) -> Execution:
    """Take the only ticket like RQ's worker "w"; return the execution record."""
    taken = lines.take(store.redis)
    assert taken is not None
    ticket_id = taken[1].decode()
    ticket = Ticket.fetch(ticket_id, connection=store.redis, serializer=tickets.SERIALIZER)
    with store.redis.pipeline() as pipe:
        ticket.prepare_for_execution("w", pipe)
        execution = Execution.create(ticket, 80, pipeline=pipe, worker_name="w")
        pipe.execute()
    return execution


def execution_keys(store: JobStore) -> set[str]:
    return {key.decode().split(":")[1] for key in store.redis.keys("rq:*")} & {"execution", "executions", "wip"}


@pytest.mark.parametrize("torn", [False, True])
def test_a_ticket_with_an_expired_record_can_be_removed(store: JobStore, torn: bool) -> None:
    """RQ's execution record expires before the list with its id; a late heartbeat leaves a partial record."""
    job_id = queued(store)
    execution = begin(store)
    store.redis.delete(execution.key)
    if torn:
        store.redis.hset(execution.key, "last_heartbeat", 1.0)
    claim = store.claim(job_id, "w")
    assert claim is not None
    assert store.declare_lost(job_id, claim.token, 0, max_deaths=3) is JobState.QUEUED
    assert tickets.waiting(store.redis) == [job_id]
    assert not execution_keys(store)
    assert len(store.redis.keys("rq:job:*")) == 1


@pytest.mark.parametrize("torn", [False, True])
def test_a_ticket_can_be_replaced_while_its_worker_ends_the_ticket(
    store: JobStore, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ lists the execution records, the worker removes its record, and RQ reads the record. Seen once in practice."""
    job_id = queued(store)
    execution = begin(store)
    claim = store.claim(job_id, "w")
    assert claim is not None
    assert store.release(claim, JobState.PAUSED)
    listed = ExecutionRegistry.get_execution_ids
    calls = []

    def list_then_end(self: ExecutionRegistry, *args: int) -> list[str]:
        ids = listed(self, *args)
        calls.append(ids)
        if len(calls) == 2:  # the first call is the repair, the second is RQ
            store.redis.delete(execution.key)
            if torn:
                store.redis.hset(execution.key, "last_heartbeat", 1.0)
        return ids

    monkeypatch.setattr(ExecutionRegistry, "get_execution_ids", list_then_end)
    assert store.resume(job_id) is JobState.QUEUED
    assert calls[1] == [execution.id], "the record vanished between list and read"
    assert tickets.waiting(store.redis) == [job_id]
    assert not execution_keys(store)


def test_heartbeats_store_progress_and_return_requests(store: JobStore) -> None:
    job_id = queued(store)
    claim = store.claim(job_id, "w")
    assert claim is not None
    beat = store.heartbeat(claim, {"progress": Progress(frames_done=3), "metrics": JobMetrics(model_seconds=1.5)})
    assert (beat.held, beat.request) == (True, None)
    assert store.get(job_id).progress.frames_done == 3
    assert store.request_pause(job_id) is JobState.RUNNING
    assert store.heartbeat(claim).request == "pause"
    assert store.request_cancel(job_id) is JobState.RUNNING
    assert store.heartbeat(claim).request == "cancel"
    assert store.release(claim, JobState.CANCELLED)
    assert store.request_cancel(job_id) is JobState.CANCELLED, "a repeated request succeeds"
    assert not store.heartbeat(claim).held


def test_a_lost_worker_changes_nothing(store: JobStore) -> None:
    job_id = queued(store)
    old = store.claim(job_id, "old")
    assert old is not None
    store.heartbeat(old)
    token, beat = store.heartbeat_counts()[job_id]
    store.heartbeat(old)
    assert store.declare_lost(job_id, token, beat, max_deaths=3) is None, "the worker was alive"
    assert store.declare_lost(job_id, token, beat + 1, max_deaths=3) is JobState.QUEUED
    new = store.claim(job_id, "new")
    assert new is not None
    assert new.token > old.token
    assert not store.heartbeat(old, {"progress": Progress(frames_done=99)}).held
    assert not store.release(old, JobState.DONE)
    assert not store.release(old, JobState.QUEUED)
    job = store.get(job_id)
    assert (job.state, job.worker, job.deaths, job.progress.frames_done) == (JobState.RUNNING, "new", 1, 0)


def test_a_job_fails_after_repeated_deaths_with_details(store: JobStore) -> None:
    job_id = queued(store)
    for death in range(1, 4):
        claim = store.claim(job_id, f"w{death}")
        assert claim is not None
        store.heartbeat(claim, {"progress": Progress(frames_done=24 + death, frames_saved=24, frames_total=100)})
        state = store.declare_lost(job_id, *store.heartbeat_counts()[job_id], max_deaths=3)
    assert state is JobState.FAILED
    job = store.get(job_id)
    assert job.error is not None
    assert "3 workers in a row died" in job.error.detail
    assert "w3" in job.error.detail
    assert "frame 24 of 100" in job.error.detail
    assert job.progress.frames_done == 24, "the frames in work are lost"
    assert tickets.waiting(store.redis) == []


def test_a_job_that_breaks_devices_at_the_same_frame_fails(store: JobStore) -> None:
    """One failure is the worker's. Failures in a row at the same frame are the job's: not every worker takes it."""
    job_id, states = queued(store), []
    for saved in (0, 24, 24, 24):
        claim = store.claim(job_id, "w")
        assert claim is not None
        fields = {"progress": Progress(frames_done=saved, frames_saved=saved)}
        states.append(store.hand_back(claim, fields, f"The device failed at {saved}", most=3))
    job = store.get(job_id)
    assert states == [JobState.QUEUED] * 3 + [JobState.FAILED]
    assert (job.deaths, job.warnings) == (0, ["The device failed at 0", "The device failed at 24"])
    assert job.error is not None
    assert "devices of 3 workers in a row failed after frame 24" in job.error.detail
    assert store.resume(job_id) is JobState.QUEUED
    claim = store.claim(job_id, "w")
    assert claim is not None
    assert store.hand_back(claim, {}, "again", most=3) is JobState.QUEUED, "a resumption starts the count again"


@pytest.mark.parametrize(("word", "state"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)])
def test_a_request_to_a_worker_whose_device_fails_is_carried_out(store: JobStore, word: str, state: JobState) -> None:
    job_id = queued(store)
    claim = store.claim(job_id, "w")
    assert claim is not None
    (store.request_cancel if word == "cancel" else store.request_pause)(job_id)
    assert store.hand_back(claim, {}, "The device failed", most=3) is state


@pytest.mark.parametrize(("word", "state"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)])
def test_a_request_to_a_dead_worker_is_carried_out(store: JobStore, word: str, state: JobState) -> None:
    job_id = queued(store)
    store.claim(job_id, "w")
    (store.request_cancel if word == "cancel" else store.request_pause)(job_id)
    assert store.declare_lost(job_id, *store.heartbeat_counts()[job_id], max_deaths=3) is state


@pytest.mark.parametrize(("word", "state"), [("cancel", JobState.CANCELLED), ("pause", JobState.PAUSED)])
def test_a_request_that_the_worker_has_not_seen_is_carried_out(store: JobStore, word: str, state: JobState) -> None:
    job_id = queued(store)
    claim = store.claim(job_id, "w")
    assert claim is not None
    (store.request_cancel if word == "cancel" else store.request_pause)(job_id)
    assert store.release(claim, JobState.QUEUED) is state
    job = store.get(job_id)
    assert (job.state, job.finished_at is not None) == (state, state.final)


def test_a_job_with_a_cancel_request_cannot_be_paused(store: JobStore) -> None:
    job_id = queued(store)
    claim = store.claim(job_id, "w")
    assert claim is not None
    store.request_pause(job_id)
    store.request_cancel(job_id)
    with pytest.raises(NotReady, match="being cancelled"):
        store.request_pause(job_id)
    assert store.release(claim, JobState.PAUSED) is JobState.CANCELLED, "the worker had seen only the pause"


def test_a_new_token_exceeds_tokens_that_redis_has_forgotten(store: JobStore) -> None:
    first, second = queued(store), queued(store)
    claim, next_claim = store.claim(first, "w", above=41), store.claim(second, "w")
    assert claim is not None
    assert next_claim is not None
    assert (claim.token, next_claim.token) == (42, 43)


def test_pause_resume_and_cancel_of_waiting_jobs(store: JobStore) -> None:
    other, job_id = queued(store), queued(store)
    assert store.request_pause(job_id) is JobState.PAUSED
    assert store.claim(job_id, "w") is None
    assert store.resume(job_id) is JobState.QUEUED
    assert tickets.waiting(store.redis) == [job_id, other]
    with pytest.raises(NotReady, match="queued, neither paused nor failed"):
        store.resume(job_id)
    assert store.request_cancel(job_id) is JobState.CANCELLED
    with pytest.raises(NotReady, match="cancelled"):
        store.request_pause(job_id)
    assert tickets.waiting(store.redis) == [other]


def test_a_failed_job_can_be_resumed(store: JobStore) -> None:
    other, job_id = queued(store), queued(store)
    for number in (1, 2):  # also the second time, and after more than a single death
        claim = store.claim(job_id, "w")
        assert claim is not None
        assert store.declare_lost(job_id, claim.token, 0, max_deaths=1) is JobState.FAILED
        assert store.resume(job_id) is JobState.QUEUED
        assert tickets.waiting(store.redis) == [job_id, other]
        job = store.get(job_id)
        assert (job.error, job.finished_at, job.attempt, job.deaths) == (None, None, number, number)
    claim = store.claim(job_id, "w")
    assert claim is not None
    assert store.declare_lost(job_id, claim.token, 0, max_deaths=2) is JobState.QUEUED


def test_a_repeated_transition_counts_once(store: JobStore) -> None:
    job_id = queued(store)
    claim = store.claim(job_id, "w")
    assert claim is not None
    assert store.release(claim, JobState.DONE)
    assert store.release(claim, JobState.DONE), "the first answer may be lost"


def test_forget_removes_only_finished_jobs(store: JobStore) -> None:
    job_id = queued(store)
    assert not store.forget(job_id)
    store.request_cancel(job_id)
    assert store.forget(job_id)
    assert store.list() == []
    assert store.redis.keys("skipvsr:job:*") == []


def test_redis_down_raises_store_unavailable() -> None:
    store = JobStore(connect("redis://127.0.0.1:1", timeout=0.2, attempts=1))
    for act in (store.ping, store.counts, lambda: store.get("0" * 24), lambda: store.request_cancel("0" * 24)):
        with pytest.raises(StoreUnavailable) as caught:
            act()
        assert caught.value.retry_after is not None


def test_an_announcement_expires(redis: Redis) -> None:
    presence, now = Presence(redis), Job(id="x", filename="x", options=JobOptions()).created_at
    info = WorkerInfo(name="w", host="h", pid=1, device="cpu", model="tiny", started_at=now)
    presence.announce(info, 30)
    presence.announce(info.model_copy(update={"name": "v"}), 0.001)
    wait_until(lambda: len(presence.workers()) < 2, 60, "the announcement does not expire")
    assert [worker.name for worker in presence.workers()] == ["w"]
    presence.leave("w")
    assert presence.workers() == []


def test_few_workers_take_a_duty_and_another_follows(redis: Redis) -> None:
    presence = Presence(redis)
    names = [f"w{number}" for number in range(5)]
    for _ in range(2):
        on_duty = [name for name in names if presence.on_duty(Duty.WATCH, name, 60)]
        assert on_duty == names[:3]
    presence.leave("w1")
    assert presence.on_duty(Duty.WATCH, "w4", 0.05)
    wait_until(lambda: presence.on_duty(Duty.WATCH, "w3", 60), 60, "a term does not end")
    assert presence.on_duty(Duty.CLEAN, "w0", 60)
    assert not presence.on_duty(Duty.CLEAN, "w1", 60)


def test_a_full_redis_still_pauses_cancels_and_deletes(store: JobStore, redis: Redis) -> None:
    waiting, running, other, finished = (queued(store) for _ in range(4))
    assert store.claim(running, "w") is not None
    assert store.request_cancel(finished) is JobState.CANCELLED
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable):
            queued(store)
        assert store.request_pause(waiting) is JobState.PAUSED
        assert store.request_cancel(waiting) is JobState.CANCELLED
        assert store.request_cancel(running) is JobState.RUNNING
        assert store.request_cancel(other) is JobState.CANCELLED
        assert store.forget(finished)
        assert {job.id for job in store.list()} == {waiting, running, other}
    finally:
        redis.config_set("maxmemory", 0)
