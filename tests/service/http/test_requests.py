"""Requests to a running job in its document: visible at once, until the worker has carried them out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import records
from jobs.schema import JobState
from jobs.settings import Settings
from jobs.store import Claim
from tests.support.clips import make_clip
from tests.support.http_server import Service, serving


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        running.announce_worker()
        yield running


@pytest.fixture
def running(service: Service, tmp_path: Path) -> Claim:
    """A job that a worker has claimed."""
    job_id = service.post(make_clip(tmp_path / "clip.mp4", frames=2)).json()["id"]
    claim = service.operations.store.claim(job_id, "w")
    assert claim is not None
    return claim


def test_a_request_is_visible_at_once_and_takes_its_link_away(service: Service, running: Claim) -> None:
    path = f"/jobs/{running.job_id}"
    before = service.client.get(path).json()
    assert (before["request"], before["links"]["pause"]) == (None, f"{path}/pause")
    pausing = service.client.post(before["links"]["pause"]).json()
    assert (pausing["state"], pausing["request"]) == ("running", "pause")
    assert (pausing["links"]["pause"], pausing["links"]["cancel"]) == (None, f"{path}/cancel")
    cancelling = service.client.post(pausing["links"]["cancel"]).json()
    assert (cancelling["state"], cancelling["request"]) == ("running", "cancel")
    assert (cancelling["links"]["pause"], cancelling["links"]["cancel"]) == (None, None)
    assert service.client.get(path).json() == cancelling
    assert service.client.post(f"{path}/cancel").status_code == 200, "a second click"
    service.operations.store.release(running, JobState.CANCELLED)
    done = service.client.get(path).json()
    assert (done["state"], done["request"]) == ("cancelled", None)


def test_a_request_does_not_outlive_its_worker(service: Service, running: Claim) -> None:
    """Neither the paused job nor a job that Redis had lost shows the old request."""
    store, storage = service.operations.store, service.operations.storage
    service.client.post(f"/jobs/{running.job_id}/pause")
    records.keep(storage, store.get(running.job_id))
    store.redis.flushall()
    assert records.restore(store, storage) == [running.job_id]
    job = store.get(running.job_id)
    assert (job.state, job.request) == (JobState.QUEUED, None)
