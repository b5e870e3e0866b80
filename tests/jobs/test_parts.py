"""Who computes which part of a running job: claims, heartbeats, requests of users, and lost helpers."""

from __future__ import annotations

import pytest

from jobs.keys import FENCE, parts_key
from jobs.parts import DONE, LEFT, OPEN, TAKEN, PartClaim, PartTable
from jobs.schema import Job, JobMetrics, JobOptions, JobState, Priority, Progress, Request
from jobs.storage import new_id
from jobs.store import Claim, JobStore

PLAN = '{"parts": 3}'


@pytest.fixture
def table(store: JobStore) -> PartTable:
    return PartTable(store.redis)


@pytest.fixture
def lead(store: JobStore, table: PartTable) -> Claim:
    """A running job with three parts."""
    job = Job(id=new_id(), filename="clip.mp4", options=JobOptions())
    store.create(job)
    claim = store.claim(job.id, "lead")
    assert claim is not None
    table.open(job.id, PLAN, (1, 2), above=0)
    return claim


def claimed(table: PartTable, job_id: str, *, lead: bool = False) -> PartClaim:
    claim = table.claim(job_id, "helper", lead=lead)
    assert claim is not None
    return claim


def states(table: PartTable, job_id: str) -> list[str]:
    return [row.state for row in table.rows(job_id, 3)]


def test_each_part_has_one_worker_and_a_token_of_its_own(store: JobStore, table: PartTable, lead: Claim) -> None:
    one, two = claimed(table, lead.job_id), claimed(table, lead.job_id)
    assert (one.number, two.number, one.plan) == (1, 2, PLAN)
    assert lead.token < one.token < two.token
    assert table.claim(lead.job_id, "another") is None
    assert states(table, lead.job_id) == [TAKEN, TAKEN]


def test_tokens_exceed_those_of_the_files(store: JobStore, table: PartTable, lead: Claim) -> None:
    """A Redis restored from an old copy knows smaller tokens than the working folders."""
    table.open(lead.job_id, PLAN, (1, 2), above=500)
    assert claimed(table, lead.job_id).token == 501
    assert table.token() == 502
    table.open(lead.job_id, PLAN, (1, 2), above=7)
    assert store.redis.get(FENCE) == b"502"


def test_parts_are_claimed_in_their_order(store: JobStore, table: PartTable, lead: Claim) -> None:
    table.open(lead.job_id, '{"parts": 13}', [12, 1, 3], above=0)
    assert [claimed(table, lead.job_id).number for _ in range(3)] == [12, 1, 3]


def test_only_running_jobs_have_open_parts(store: JobStore, table: PartTable, lead: Claim) -> None:
    store.release(lead, JobState.PAUSED)
    assert table.claim(lead.job_id, "helper") is None
    assert table.claim(new_id(), "helper") is None


def test_reports_arrive_and_requests_come_back(store: JobStore, table: PartTable, lead: Claim) -> None:
    claim = claimed(table, lead.job_id)
    progress = Progress(frames_done=7, frames_saved=4, frames_total=20, fps=2.0)
    fields = {"progress": progress, "metrics": JobMetrics(model_seconds=3.0), "warnings": ["not a part's"]}
    assert table.heartbeat(claim, fields).held
    row = table.rows(lead.job_id, 3)[0]
    assert (row.beat, row.progress, row.metrics.model_seconds) == (1, progress, 3.0)
    assert table.heartbeat(claim).request is None
    store.request_pause(lead.job_id)
    assert table.heartbeat(claim).request is Request.PAUSE
    store.release(lead, JobState.PAUSED)
    assert table.heartbeat(claim) == table.heartbeat(claim)
    assert table.heartbeat(claim).request is Request.PAUSE, "the lead was faster"
    assert table.release(claim, JobState.QUEUED) is JobState.QUEUED
    assert states(table, lead.job_id) == [OPEN, OPEN]


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.DONE, JobState.FAILED])
def test_helpers_stop_at_the_end_of_the_job(store: JobStore, table: PartTable, lead: Claim, state: JobState) -> None:
    claim = claimed(table, lead.job_id)
    store.release(lead, state)
    assert not table.heartbeat(claim).held


def test_helpers_continue_while_the_job_waits_for_another_lead(store: JobStore, table: PartTable, lead: Claim) -> None:
    claim = claimed(table, lead.job_id)
    store.release(lead, JobState.QUEUED)
    assert table.heartbeat(claim).held
    next_lead = store.claim(lead.job_id, "next")
    assert next_lead is not None
    table.open(lead.job_id, PLAN, (1, 2), above=0)
    assert states(table, lead.job_id) == [TAKEN, OPEN], "the same plan leaves claims as they are"
    table.open(lead.job_id, '{"parts": "others"}', (1, 2), above=0)
    assert states(table, lead.job_id) == [OPEN, OPEN]
    assert not table.heartbeat(claim).held


def test_a_part_that_a_helper_failed_or_left_belongs_to_the_lead(
    store: JobStore, table: PartTable, lead: Claim
) -> None:
    one, two = claimed(table, lead.job_id), claimed(table, lead.job_id)
    assert table.release(one, JobState.FAILED) is JobState.FAILED
    (_, row) = table.rows(lead.job_id, 3)
    table.heartbeat(two)
    assert not table.take_back(lead.job_id, row), "a heartbeat has arrived since"
    assert table.take_back(lead.job_id, table.rows(lead.job_id, 3)[1])
    assert states(table, lead.job_id) == [LEFT, LEFT]
    assert not table.heartbeat(two).held
    assert table.release(two, JobState.DONE) is None
    assert table.claim(lead.job_id, "helper") is None
    again = claimed(table, lead.job_id, lead=True)
    assert (again.number, again.token > two.token) == (1, True)
    assert table.release(again, JobState.DONE, {"progress": Progress(frames_done=9)}) is JobState.DONE
    assert table.rows(lead.job_id, 3)[0].progress.frames_done == 9
    assert states(table, lead.job_id) == [DONE, LEFT]


def test_a_lost_table_stops_helpers(store: JobStore, table: PartTable, lead: Claim) -> None:
    claim = claimed(table, lead.job_id)
    table.drop(lead.job_id)
    assert not table.heartbeat(claim).held
    assert table.rows(lead.job_id, 3) == []
    assert not store.redis.exists(parts_key(lead.job_id)), "a heartbeat creates nothing"


def test_a_call_leaves_a_ticket_for_each_part(store: JobStore, table: PartTable, lead: Claim) -> None:
    table.call(lead.job_id, Priority.NORMAL, 2, timeout=60)
    assert store.redis.zcard("skipvsr:line:normal:~parts") == 2
    assert store.depths()[Priority.NORMAL] == 1, "the job's own"
