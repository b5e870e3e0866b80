"""The order in which workers take jobs: turns of API keys, priorities, and what is left after deaths and losses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from rq.exceptions import DequeueTimeout

from jobs import tickets
from jobs.errors import NotReady
from jobs.keys import BELL, OWED
from jobs.lines import Place
from jobs.parts import PartTable
from jobs.schema import Job, JobOptions, JobState, Priority
from jobs.storage import new_id
from jobs.store import Claim, JobStore
from jobs.tickets import SERIALIZER, FairQueue


def queue(store: JobStore, owner: str = "", priority: Priority = Priority.NORMAL) -> str:
    job = Job(id=new_id(), filename="clip.mp4", owner=owner, options=JobOptions(priority=priority))
    store.create(job)
    return job.id


def take(store: JobStore) -> str | None:
    """Id of the next job, taken like a worker."""
    found = FairQueue.dequeue_any([], None, store.redis, serializer=SERIALIZER)
    return tickets.job_of(found[0].id) if found else None


def taken(store: JobStore) -> Iterator[str]:
    while (job_id := take(store)) is not None:
        yield job_id


def test_one_key_s_thousand_jobs_do_not_delay_another_key(store: JobStore) -> None:
    many = [queue(store, "many") for _ in range(100)]
    one = queue(store, "one")
    assert [take(store) for _ in range(4)] == [many[0], one, many[1], many[2]]


def test_keys_take_turns_and_each_key_s_jobs_stay_in_order(store: JobStore) -> None:
    a, b, c = ([queue(store, key) for _ in range(count)] for key, count in (("a", 3), ("b", 1), ("c", 2)))
    expected = [a[0], b[0], c[0], a[1], c[1], a[2]]
    assert tickets.waiting(store.redis) == expected
    assert list(taken(store)) == expected


def test_a_key_that_returns_at_once_does_not_overtake_the_others(store: JobStore) -> None:
    for _ in range(5):
        queue(store, "patient")
    seen = []
    queue(store, "eager")
    for _ in range(8):
        job_id = take(store)
        assert job_id is not None
        seen.append(store.get(job_id).owner)
        if seen[-1] == "eager":
            queue(store, "eager")
    assert seen[:6] == ["patient", "eager"] * 3


def test_a_higher_priority_comes_first_whoever_waits(store: JobStore) -> None:
    low, normal = queue(store, "a", Priority.LOW), queue(store, "b")
    high = [queue(store, "a", Priority.HIGH) for _ in range(2)]
    assert list(taken(store)) == [*high, normal, low]


def test_a_resumed_job_overtakes_only_jobs_of_its_key(store: JobStore) -> None:
    first, second = queue(store, "a"), queue(store, "a")
    other = queue(store, "b")
    store.request_pause(second)
    store.resume(second)
    assert list(taken(store)) == [second, other, first]


def test_a_job_that_a_worker_gives_back_has_the_next_turn(store: JobStore) -> None:
    first, other = queue(store, "a"), queue(store, "b")
    claim = store.claim(take(store) or "", "w")
    assert claim is not None
    assert claim.job_id == first
    assert store.release(claim, JobState.QUEUED) is JobState.QUEUED
    assert list(taken(store)) == [first, other]


def test_a_ticket_in_a_dead_worker_s_hand_is_owed_and_replaced(store: JobStore) -> None:
    job_id, other = queue(store), queue(store)
    assert take(store) == job_id
    assert store.without_ticket() == {job_id}
    store.enqueue(job_id, Place.FIRST)
    assert store.without_ticket() == set()
    assert list(taken(store)) == [job_id, other]


def test_a_claimed_job_is_owed_nothing(store: JobStore) -> None:
    assert store.claim(queue(store), "w")
    assert take(store)
    assert store.without_ticket() == set()
    assert not store.redis.exists(OWED), "a surplus ticket leaves nothing"


def test_a_worker_that_dies_before_it_queues_the_ticket_again_leaves_a_debt(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue(store)
    claim = store.claim(take(store) or "", "w")
    assert claim is not None
    monkeypatch.setattr(store, "enqueue", lambda *_: None)
    assert store.release(claim, JobState.QUEUED) is JobState.QUEUED
    assert store.without_ticket() == {job_id}


def test_a_job_that_redis_had_lost_gets_its_place(store: JobStore, redis: Redis) -> None:
    jobs = [store.get(queue(store, key)) for key in ("a", "a", "b")]
    redis.flushall()
    for job in jobs:
        assert store.restore(job)
    assert store.without_ticket() == set()
    assert list(taken(store)) == [jobs[0].id, jobs[2].id, jobs[1].id]


def test_depths_and_longest_wait(store: JobStore) -> None:
    assert store.longest_wait() == 0.0
    ids = [queue(store, key) for key in ("a", "a", "b")]
    queue(store, "a", Priority.LOW)
    assert store.depths() == {Priority.HIGH: 0, Priority.NORMAL: 3, Priority.LOW: 1}
    now = time.time()
    for job_id, age in zip(ids, (50, 40, 90), strict=True):
        store.redis.hset(f"skipvsr:job:{job_id}", "queued_at", int(now - age))
    assert [round(store.longest_wait(key), -1) for key in (None, "a", "b", "c")] == [90, 50, 90, 0]
    store.request_pause(ids[0])
    store.resume(ids[0])
    assert round(store.longest_wait("a"), -1) == 40


def test_idle_workers_wake_up_for_each_job(store: JobStore) -> None:
    found: list[str] = []

    def work() -> None:
        with suppress(DequeueTimeout):
            taken = FairQueue.dequeue_any([], 10, store.redis, serializer=SERIALIZER)
            assert taken is not None
            found.append(tickets.job_of(taken[0].id))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while store.redis.info("clients")["blocked_clients"] < 4:
        time.sleep(0.01)
    ids = [queue(store, str(number % 2)) for number in range(4)]
    for thread in threads:
        thread.join(60)
    assert sorted(found) == sorted(ids)
    assert not store.redis.exists(BELL), "nothing waits"


def test_an_idle_worker_gives_up_after_its_time(store: JobStore) -> None:
    store.redis.rpush(BELL, 1)  # a ring for a ticket that another worker has taken
    with pytest.raises(DequeueTimeout):
        FairQueue.dequeue_any([], 1, store.redis, serializer=SERIALIZER)


OWNERS = st.sampled_from(["", "a", "b", "c"])
STEPS = st.one_of(
    st.tuples(st.just("queue"), OWNERS, st.sampled_from(Priority)),
    st.tuples(st.sampled_from(["pause", "resume", "cancel"]), st.integers(0, 30), st.just(None)),
    st.tuples(st.sampled_from(["take", "die", "finish", "give back", "repair"]), st.just(0), st.just(None)),
)


class Service:
    """Users and one worker, and all that must hold after each of their steps."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.jobs: list[str] = []
        self.claim: Claim | None = None

    def step(self, word: str, what: object, priority: Priority | None) -> None:
        if word == "queue":
            self.jobs.append(queue(self.store, str(what), priority or Priority.NORMAL))
        elif word in ("pause", "resume", "cancel"):
            self.ask(word, int(str(what)))
        elif word == "take" and self.claim is None:
            self.take()
        elif word == "die":
            take(self.store)
        elif word in ("finish", "give back") and self.claim is not None:
            self.store.release(self.claim, JobState.DONE if word == "finish" else JobState.QUEUED)
            self.claim = None
        elif word == "repair":
            for job_id in self.store.without_ticket():
                self.store.enqueue(job_id, Place.FIRST)

    def ask(self, word: str, number: int) -> None:
        act = {"pause": self.store.request_pause, "resume": self.store.resume, "cancel": self.store.request_cancel}
        with suppress(NotReady, IndexError):
            act[word](self.jobs[number])

    def take(self) -> None:
        expected = tickets.waiting(self.store.redis)
        job_id = take(self.store)
        assert job_id == (expected[0] if expected else None), "the list shows the true order"
        if job_id is not None:
            self.claim = self.store.claim(job_id, "w")

    def check(self) -> None:
        waiting = tickets.waiting_by_priority(self.store.redis)
        everybody = [job_id for ids in waiting.values() for job_id in ids]
        owed = self.store.without_ticket()
        assert sorted([*everybody, *owed]) == sorted(self.store.ids(JobState.QUEUED)), "each queued job has one place"
        assert self.store.depths() == {priority: len(ids) for priority, ids in waiting.items()}
        assert bool(everybody) == bool(self.store.redis.exists(BELL)), "an idle worker wakes up if a ticket waits"
        for priority, ids in waiting.items():
            jobs = [self.store.get(job_id) for job_id in ids]
            assert all(job.options.priority is priority for job in jobs)
            last = {owner: number for number, owner in enumerate(job.owner for job in jobs)}
            for owner, end in last.items():
                own = [number for number, job in enumerate(jobs) if job.owner == owner]
                gaps = [after - before for before, after in pairwise(own)]
                assert max([own[0] + 1, *gaps]) <= len(last), f"{owner or 'nobody'} waits for more than a turn of each"
                assert end == own[-1]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=40))
def test_no_job_is_lost_and_no_key_starves(redis: Redis, steps: list[tuple[str, object, Priority | None]]) -> None:
    redis.flushall()
    service = Service(JobStore(redis))
    for step in steps:
        service.step(*step)
        service.check()
    service.step("repair", 0, None)
    expected = tickets.waiting(redis)
    assert list(taken(service.store)) == expected


def test_parts_of_running_jobs_come_behind_all_jobs_of_their_priority(store: JobStore) -> None:
    running, first, second, low = (
        *(queue(store, key) for key in ("", "a", "b")),
        queue(store, priority=Priority.LOW),
    )
    claim = store.claim(running, "lead")
    assert claim is not None
    assert take(store) == running, "the ticket of the claim"
    PartTable(store.redis).call(running, Priority.NORMAL, 2, timeout=60)
    late = queue(store, "a")
    assert (tickets.waiting(store.redis), store.depths()[Priority.NORMAL]) == ([first, second, late, low], 3)
    assert store.longest_wait() < 5
    store.redis.hset(f"skipvsr:job:{running}", "queued_at", 1)
    assert store.longest_wait() < 5, "a running job does not wait"
    assert list(taken(store)) == [first, second, late, running, running, low]


def test_a_ticket_of_a_part_wakes_an_idle_worker(store: JobStore) -> None:
    job_id = queue(store)
    assert take(store) == job_id
    claim = store.claim(job_id, "lead")
    assert claim is not None
    store.redis.delete(BELL)
    PartTable(store.redis).call(job_id, Priority.NORMAL, 1, timeout=60)
    found = FairQueue.dequeue_any([], 5, store.redis, serializer=SERIALIZER)
    assert found is not None
    assert store.without_ticket() == set(), "a running job needs no ticket"
