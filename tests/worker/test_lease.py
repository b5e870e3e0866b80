"""The lease on a job: priority of stop reasons, and the fields on their way to the store."""

from __future__ import annotations

import threading
from itertools import permutations

import pytest

from jobs.schema import JobState
from jobs.store import Claim, Request
from worker.lease import STATE_AFTER, Lease, StopReason


@pytest.fixture
def lease() -> Lease:
    return Lease(Claim("0" * 24, 1), lambda: None)


@pytest.mark.parametrize("order", list(permutations(StopReason)))
def test_the_highest_stop_reason_wins_in_any_order(lease: Lease, order: tuple[StopReason, ...]) -> None:
    assert not lease.stop.is_set()
    for reason in order:
        lease.request_stop(reason)
        assert lease.stop.is_set()
    assert lease.stop_reason is StopReason.LOST


def test_stop_reasons_are_ordered_by_priority() -> None:
    assert StopReason.SHUTDOWN < StopReason.PAUSE < StopReason.CANCEL < StopReason.LOST
    assert [reason for reason in StopReason if reason.abandons_chunk] == [StopReason.CANCEL, StopReason.LOST]


@pytest.mark.parametrize("request_", list(Request))
def test_a_request_leads_to_the_same_state_in_store_and_worker(request_: Request) -> None:
    assert STATE_AFTER[StopReason.of(request_)] is request_.state
    assert STATE_AFTER[None] is STATE_AFTER[StopReason.SHUTDOWN] is JobState.QUEUED


def test_returned_fields_do_not_overwrite_newer_fields() -> None:
    woken = threading.Event()
    lease = Lease(Claim("0" * 24, 1), woken.set)
    lease.update({"progress": 1, "model": "tiny"})
    assert woken.is_set()
    taken = lease.take_fields()
    assert lease.take_fields() == {}
    lease.update({"progress": 2})
    lease.return_fields(taken)
    assert lease.take_fields() == {"progress": 2, "model": "tiny"}
