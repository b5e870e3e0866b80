"""Limits of an API key, counted in a real Redis."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from redis import Redis

from jobs import allowance
from jobs.allowance import Allowance, Limits
from jobs.errors import LimitReached, StoreUnavailable, TooLarge
from jobs.keys import bytes_key, job_key, owner_key, rate_key, slots_key, state_key
from jobs.schema import Job, JobOptions, JobState
from jobs.storage import new_id
from jobs.store import JobStore, connect

OWNER = "0123abcd"


def made(redis: Redis, **limits: int) -> Allowance:
    return Allowance(redis, OWNER, Limits(**limits))


def test_a_key_without_limits_needs_no_redis() -> None:
    free = Allowance(connect("redis://127.0.0.1:1", timeout=0.2, attempts=1), OWNER, Limits())
    with free.upload("a" * 24, 10**12) as meter:
        meter.count(10**12)
        free.hold("a" * 24)
    strict = Allowance(connect("redis://127.0.0.1:1", timeout=0.2, attempts=1), OWNER, Limits(bytes_per_day=1))
    with pytest.raises(StoreUnavailable), strict.upload("a" * 24, 1):
        pass


def test_a_key_whose_jobs_wait_too_long_queues_no_more(redis: Redis) -> None:
    store = JobStore(redis)
    first = Job(id=new_id(), filename="clip.mp4", owner=OWNER, options=JobOptions())
    store.create(first)
    keys = [Allowance(redis, owner, Limits(), max_wait=3600) for owner in (OWNER, "another")]
    for key in keys:
        key.check_wait()
    redis.hset(job_key(first.id), "queued_at", int(time.time()) - 3700)
    keys[1].check_wait()
    with pytest.raises(LimitReached, match="more than 1 h"), keys[0].upload("a" * 24, 1):
        pass
    Allowance(redis, OWNER, Limits()).check_wait()
    store.request_pause(first.id)
    keys[0].check_wait()


def test_slots_are_freed_renewed_and_expire(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    key = made(redis, max_jobs=2)
    with key.slot("a"), key.slot("b"):
        key.hold("a")  # a renewal needs no second place
        with pytest.raises(LimitReached, match="2 jobs at a time"):
            key.hold("c")
    assert redis.zcard(slots_key(OWNER)) == 0
    monkeypatch.setattr(allowance, "_SLOT_SECONDS", 1)  # a process that dies leaves its slots
    key.hold("a")
    key.hold("b")
    time.sleep(1.2)
    key.hold("c")
    assert redis.zrange(slots_key(OWNER), 0, -1) == [b"c"]


def test_an_active_job_keeps_its_place_while_it_is_paused_and_resumed(redis: Redis) -> None:
    """A request to resume that comes while a worker pauses the job must not exceed the limit."""
    key = made(redis, max_jobs=1)
    redis.sadd(owner_key(OWNER), "a")
    redis.sadd(state_key(JobState.RUNNING), "a")
    with key.slot("a"):
        redis.smove(state_key(JobState.RUNNING), state_key(JobState.PAUSED), "a")
        with pytest.raises(LimitReached):
            key.hold("b")
        redis.smove(state_key(JobState.PAUSED), state_key(JobState.QUEUED), "a")
    with pytest.raises(LimitReached):
        key.hold("b")


def test_a_meter_renews_its_slot(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "_RENEW_SECONDS", 0.0)
    with made(redis, max_jobs=1).upload("a", 0) as meter:
        redis.delete(slots_key(OWNER))
        assert meter.asks(1)
        meter.count(1)
        assert redis.zcard(slots_key(OWNER)) == 1


def test_rate_of_uploads(redis: Redis) -> None:
    key = made(redis, uploads_per_minute=2)

    def start(number: int) -> int:
        """Seconds to wait; 0 for an upload that starts."""
        try:
            with key.metered(f"upload {number}", 0):
                return 0
        except LimitReached as error:
            return error.retry_after or -1

    with ThreadPoolExecutor(10) as pool:
        waits = sorted(pool.map(start, range(10)))
    assert waits[:2] == [0, 0]
    assert all(0 < wait <= 60 for wait in waits[2:])
    for member, at in redis.zrange(rate_key(OWNER), 0, -1, withscores=True):  # a minute later
        redis.zadd(rate_key(OWNER), {member: at - 60_000})
    assert start(11) == 0


def test_bytes_are_never_exceeded_and_the_rest_is_given_back(redis: Redis) -> None:
    key = made(redis, bytes_per_day=20_000_000)

    def send(number: int) -> int:
        sent = 0
        with key.metered(f"upload {number}", 0) as meter, suppress(LimitReached):
            for _ in range(100):
                meter.count(100_000)
                sent += 100_000
        return sent

    with ThreadPoolExecutor(8) as pool:
        total = sum(pool.map(send, range(8)))
    assert int(redis.hget(bytes_key(OWNER), "used") or 0) == total <= 20_000_000
    assert send(9) == 20_000_000 - total
    with pytest.raises(LimitReached) as error, key.metered("announced", 1):
        pass
    assert error.value.retry_after is not None
    assert 0 < error.value.retry_after <= 86400
    with pytest.raises(TooLarge, match="20,000,000 bytes"), key.metered("never", 20_000_001):
        pass
    redis.hset(bytes_key(OWNER), "day", "1")  # yesterday's count
    assert send(10) == 10_000_000
    assert 0 < redis.ttl(bytes_key(OWNER)) <= 86400
