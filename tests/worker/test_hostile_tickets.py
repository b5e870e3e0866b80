"""Tickets of a stranger with access to Redis: a real worker process drops them, runs nothing, and continues."""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from jobs import lines
from jobs.lines import Line, Place
from jobs.schema import JobState, Priority
from jobs.settings import Settings
from jobs.storage import Storage, new_id
from jobs.store import JobStore
from jobs.tickets import QUEUES, SERIALIZER, TASK, FairQueue
from tests.support.clips import make_clip
from tests.support.crew import crew, submit, wait_for
from tests.support.processes import wait_until
from worker.runner_ticket import ticket_class


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def plant(redis: Redis, payload: bytes, ticket_id: str = "", **fields: bytes) -> str:
    """Write a ticket into the queue of urgent jobs, as RQ stores tickets."""
    ticket_id = ticket_id or f"{new_id()}-1"
    queue = next(iter(QUEUES.values()))
    head = {"created_at": b"2026-01-01T00:00:00.000000Z", "status": b"queued", "origin": queue.encode()}
    redis.hset(f"rq:job:{ticket_id}", mapping={**head, "data": payload, **fields})
    lines.push(redis, Line(Priority.HIGH), ticket_id, Place.BACK)
    return ticket_id


def ours(ticket_id: str) -> bytes:
    return zlib.compress(json.dumps([TASK, None, [ticket_id.rpartition("-")[0]], {}]).encode())


def test_the_worker_never_unpickles() -> None:
    assert SERIALIZER == "json"
    queue = Queue("any", connection=Redis.from_url("redis://127.0.0.1:1"), serializer=SERIALIZER)
    assert queue.serializer is JSONSerializer


def test_a_worker_drops_hostile_tickets(
    settings: Settings, store: JobStore, storage: Storage, tmp_path: Path, redis: Redis
) -> None:
    marks = [tmp_path / f"mark-{number}" for number in range(2)]
    command = f"touch {marks[0]}"
    ids = [f"{new_id()}-1" for _ in range(6)]
    hook = json.dumps([{"url": "http://127.0.0.1:9/", "on": "success"}]).encode()
    planted = [
        plant(redis, zlib.compress(pickle.dumps(Bomb(marks[1])))),
        plant(redis, pickle.dumps(Bomb(marks[1]))),
        plant(redis, zlib.compress(json.dumps(["os.system", None, [command], {}]).encode())),
        plant(redis, ours(ids[0]), ids[0], success_callback_name=b"os.abort"),
        plant(redis, ours(ids[1]), ids[1], failure_callback_name=b"os.abort"),
        plant(redis, ours(ids[2]), ids[2], webhooks=hook),
        plant(redis, ours(ids[3]), ids[3], meta=pickle.dumps(Bomb(marks[1]))),
        plant(redis, ours(ids[4]), f"{new_id()}-1"),  # another job's payload
        plant(redis, ours(ids[5]), ids[5], timeout=b"never"),
        plant(redis, zlib.compress(b"[" * 50_000_000)),
        plant(redis, zlib.compress(b"[" * 4000)),
        plant(redis, b""),
    ]
    planted.append(plant(redis, ours("../../etc-1"), "../../etc-1"))
    redis.hset(b"rq:job:\xff\xfe", "data", b"x")
    lines.push(redis, Line(Priority.HIGH), b"\xff\xfe", Place.BACK)  # type: ignore[arg-type]
    no_hash = f"{new_id()}-1"
    redis.set(f"rq:job:{no_hash}", b"x")
    lines.push(redis, Line(Priority.HIGH), no_hash, Place.BACK)
    with crew(settings, tmp_path) as (worker,):
        job = wait_for(store, submit(store, storage, make_clip(tmp_path / "clip.mp4", frames=8)))
        assert job.state is JobState.DONE, worker.log
        wait_until(lambda: worker.log.count("dropped a ticket") == len(planted) + 2, 60, worker.log)
        assert "Traceback" not in worker.log
        assert worker.process.poll() is None
        wait_until(lambda: not redis.keys("rq:job:*"), 60, f"Redis keeps {redis.keys('rq:job:*')}")
    assert not any(mark.exists() for mark in marks)


@pytest.mark.parametrize("state", ["paused", "requeued"])
def test_our_own_tickets_pass(store: JobStore, storage: Storage, state: str) -> None:
    """The tickets of all ways into a queue: new, and again at the front."""
    storage.prepare()
    upload = storage.uploads / "clip"
    upload.write_bytes(b"video")
    job_id = submit(store, storage, upload)
    if state == "paused":
        store.request_pause(job_id)
        store.resume(job_id)
    else:
        store.enqueue(job_id, Place.FIRST)
    seen: list[str] = []
    found = FairQueue.dequeue_any([], None, store.redis, job_class=ticket_class(seen.append), serializer=SERIALIZER)
    assert found is not None
    found[0].perform()
    assert seen == [job_id]
