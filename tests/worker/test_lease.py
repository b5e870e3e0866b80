"""The lease on a job: priority of stop reasons, and the fields on their way to the store."""

from __future__ import annotations

import threading
import time
from itertools import permutations

import pytest

from jobs.schema import JobState, Progress
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
    assert [reason for reason in StopReason if not reason.halts_network] == [StopReason.SHUTDOWN]


@pytest.mark.parametrize("reason", list(StopReason))
def test_the_network_halts_for_users_and_lost_jobs(lease: Lease, reason: StopReason) -> None:
    lease.request_stop(reason)
    assert lease.halt.is_set() is reason.halts_network


@pytest.mark.parametrize(("seconds", "halts"), [(5.0, False), (11.0, False), (20.0, True)])
def test_a_worker_that_ends_gives_up_a_chunk_that_takes_too_long(lease: Lease, seconds: float, halts: bool) -> None:
    """Ten seconds are left; an estimate may be too high by a fifth."""
    lease.expect_checkpoint(1000.0)
    assert not lease.halt.is_set(), "the worker does not end"
    lease.shut_down(time.monotonic() + 10)
    lease.expect_checkpoint(seconds)
    assert lease.halt.is_set() is halts


def test_an_end_that_loses_frames_stores_the_checkpoint_s_progress(lease: Lease) -> None:
    assert lease.take_fields_at_checkpoint() == {}
    lease.note({"progress": Progress(frames_done=30, frames_saved=24, frames_total=48, fps=2.0), "model": "tiny"})
    lease.take_fields()  # stored by a heartbeat
    saved = Progress(frames_done=24, frames_saved=24, frames_total=48)
    assert lease.take_fields_at_checkpoint() == {"progress": saved}


@pytest.mark.parametrize("request_", list(Request))
def test_a_request_leads_to_the_same_state_in_store_and_worker(request_: Request) -> None:
    assert STATE_AFTER[StopReason.of(request_)] is request_.state
    assert STATE_AFTER[None] is STATE_AFTER[StopReason.SHUTDOWN] is JobState.QUEUED


def test_returned_fields_do_not_overwrite_newer_fields() -> None:
    woken = threading.Event()
    lease = Lease(Claim("0" * 24, 1), woken.set)
    first, second = Progress(frames_done=1), Progress(frames_done=2)
    lease.update({"progress": first, "model": "tiny"})
    assert woken.is_set()
    assert lease.has_fields
    taken = lease.take_fields()
    assert not lease.has_fields
    assert lease.take_fields() == {}
    lease.update({"progress": second})
    lease.return_fields(taken)
    assert lease.take_fields() == {"progress": second, "model": "tiny"}
