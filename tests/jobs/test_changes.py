"""Changes of jobs: numbers, messages, and what has changed since a number."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from redis import Redis

from jobs.errors import StoreUnavailable
from jobs.schema import Job, JobOptions, JobState, Progress
from jobs.storage import new_id
from jobs.store import JobStore
from jobs.store.changes import Change, Changes

T = TypeVar("T")


def run(url: str, act: Callable[[Changes], Awaitable[T]]) -> T:
    async def go() -> T:
        changes = Changes(url)
        try:
            return await asyncio.wait_for(act(changes), 60)
        finally:
            await changes.close()

    return asyncio.run(go())


def create(store: JobStore, owner: str = "") -> str:
    job = Job(id=new_id(), owner=owner, filename="clip.mp4", options=JobOptions())
    store.create(job)
    return job.id


def life(store: JobStore) -> str:
    """Create a job, process the job, and remove the job."""
    job_id = create(store, "key")
    claim = store.claim(job_id, "worker")
    assert claim
    store.heartbeat(claim)
    store.heartbeat(claim, {"progress": Progress(frames_done=3)})
    store.release(claim, JobState.DONE)
    store.forget(job_id)
    return job_id


def test_every_change_of_a_document_is_published_in_order(store: JobStore, redis_url: str) -> None:
    async def watch(changes: Changes) -> tuple[str, list[Change]]:
        async with changes.subscribed() as messages:
            job_id = await asyncio.to_thread(life, store)
            return job_id, [await anext(messages) for _ in range(5)]

    job_id, found = run(redis_url, watch)
    # created, claimed, progress, done, removed; a heartbeat without news is no change
    assert [(change.job_id, change.owner, change.removed) for change in found] == [
        (job_id, "key", number == 4) for number in range(5)
    ]
    assert [c.number for c in found] == sorted({c.number for c in found})


def test_what_changed_since_a_number(store: JobStore, redis_url: str) -> None:
    before, paused = create(store), create(store)
    number = run(redis_url, lambda changes: changes.last())
    removed = life(store)
    store.request_pause(paused)
    found = run(redis_url, lambda changes: changes.since(number))
    assert [(c.job_id, c.owner, c.removed) for c in found] == [(removed, "key", True), (paused, None, False)]
    assert run(redis_url, lambda changes: changes.since(found[-1].number)) == []
    own = run(redis_url, lambda changes: changes.since(number, "key"))
    assert [c.job_id for c in own] == [removed], "an owner's reader needs no documents of other owners"
    documents = run(redis_url, lambda changes: changes.read([before, paused, removed]))
    assert {i: document.job for i, document in documents.items()} == {i: store.get(i) for i in (before, paused)}
    assert documents[paused].number == found[-1].number


def test_numbers_grow_even_if_redis_loses_everything(store: JobStore, redis: Redis, redis_url: str) -> None:
    create(store)
    first = run(redis_url, lambda changes: changes.last())
    redis.flushall()
    create(store)
    assert run(redis_url, lambda changes: changes.last()) > first


def test_a_job_that_redis_had_lost_counts_as_changed(store: JobStore, redis: Redis, redis_url: str) -> None:
    job = store.get(create(store))
    redis.flushall()
    assert store.restore(job)
    assert [c.job_id for c in run(redis_url, lambda changes: changes.since(0))] == [job.id]


def test_active_jobs_by_owner(store: JobStore, redis_url: str) -> None:
    mine, other = create(store, "mine"), create(store, "other")
    life(store)
    assert run(redis_url, lambda changes: changes.active("mine")) == [mine]
    assert run(redis_url, lambda changes: changes.active(None)) == sorted([mine, other])


def test_a_lost_connection_is_an_error(store: JobStore, redis: Redis, redis_url: str) -> None:
    async def watch(changes: Changes) -> None:
        async with changes.subscribed() as messages:
            await asyncio.to_thread(lambda: redis.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB"))
            await anext(messages)

    with pytest.raises(StoreUnavailable):
        run(redis_url, watch)
