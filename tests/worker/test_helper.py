"""A worker that helps with segments: its device fails, or it cannot compute what the lead has planned."""

from __future__ import annotations

import logging
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from jobs.errors import StorageFull
from jobs.parts import PartClaim
from jobs.schema import Job, JobOptions, JobState
from jobs.storage import Storage, new_id
from jobs.store import JobStore
from model.errors import DeviceError
from model.faults import device_failure
from worker.attempt import Attempt
from worker.helper import Helper
from worker.job_log import JobLog
from worker.lease import Lease
from worker.runner import Runner


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


@pytest.mark.parametrize("reason", ["another version", "memory", "disk"])
def test_an_unfit_helper_leaves_the_part_to_other_helpers(
    store: JobStore, storage: Storage, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """The helper claims further parts of the plan only to open them again."""
    job = Job(id=new_id(), filename="a.mp4", options=JobOptions())
    storage.job_dir(job.id).mkdir(parents=True)
    store.create(job)
    if reason == "memory":
        monkeypatch.setattr(store, "get", Mock(side_effect=out_of_memory()))
    elif reason == "disk":
        monkeypatch.setattr(store, "get", Mock(side_effect=StorageFull("full")))
    seen: list[Exception] = []
    unused: Any = None
    helper = Helper(store, storage, unused, unused, "w", unused, unused, seen.append)
    for token in (3, 4):
        claim = PartClaim(job.id, token, 1, "{}")
        state = helper._attempt(claim, Lease(claim, lambda: None), JobLog(logging.getLogger("test"), job.id))
        assert state is JobState.QUEUED
    assert len(seen) == 1


def test_a_helper_without_memory_computes_no_smaller_chunks() -> None:
    """Smaller chunks would change the bytes of the result, and the lead's document would not tell."""
    job = Job(id=new_id(), filename="a.mp4", options=JobOptions())
    attempt = Attempt(job, Lease(PartClaim(job.id, 3, 1, "{}"), lambda: None))
    unused: Any = Mock()
    runner: Any = Mock()
    runner._run_pipeline.side_effect = out_of_memory()
    with pytest.raises(DeviceError):
        Runner._upscale(runner, unused, unused, attempt, unused)
    assert runner._run_pipeline.call_count == 1


def out_of_memory() -> DeviceError:
    error = DeviceError("cuda ran out of memory")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    return error
