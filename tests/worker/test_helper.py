"""A worker that helps with segments, and whose device fails."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from jobs.parts import PartClaim
from jobs.schema import JobState
from jobs.storage import Storage
from jobs.store import JobStore
from model.faults import device_failure
from worker.helper import Helper
from worker.job_log import JobLog
from worker.lease import Lease


@pytest.mark.parametrize("error", [torch.AcceleratorError("CUDA error: device-side assert triggered"), ValueError("x")])
def test_a_helper_tells_the_worker_of_each_error(
    store: JobStore, storage: Storage, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The worker ends if its device has failed, and the segment is left to the leading worker."""

    def broken(job_id: str) -> None:
        raise error

    monkeypatch.setattr(store, "get", broken)
    seen: list[Exception] = []
    unused: Any = None
    helper = Helper(store, storage, unused, unused, "w", unused, unused, seen.append)
    claim = PartClaim("0" * 32, 1, 3, "{}")
    state = helper._attempt(claim, Lease(claim, lambda: None), JobLog(logging.getLogger("test"), claim.job_id))
    assert (state, seen) == (JobState.FAILED, [error])
    assert (device_failure(error) is error) == isinstance(error, RuntimeError)
