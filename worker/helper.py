"""A worker that computes parts of a job of another worker, its lead."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from jobs import tracing
from jobs.errors import NotFound, StorageFull, StorageUnavailable, StoreUnavailable
from jobs.parts import PartClaim, PartTable
from jobs.schema import Job, JobMetrics, JobState
from jobs.storage import Fenced, Storage, part_id
from jobs.store import JobStore
from model.engine.memory import free_memory
from model.errors import ModelError
from pipeline.choice import Choice
from pipeline.events import PartDone
from pipeline.parts import Plan, Unfit
from pipeline.task import UpscaleTask
from worker.attempt import Attempt, stored
from worker.crew import part_task
from worker.errors import no_room, out_of_memory
from worker.heartbeat import Heartbeat
from worker.job_log import JobLog
from worker.lead import Run
from worker.lease import Lease, StopReason

log = logging.getLogger(__name__)

_PAUSE: Final = 0.5


class Helper:
    """Computes parts, one at a time.

    Args:
        store: the jobs.
        storage: the files.
        choose: loads the model of a job, given its source.
        heartbeat: the heartbeat thread.
        name: the worker's name.
        run: runs the pipeline.
        task: the task of a job, given its source and a working folder.
        check: looks at each error of a part; a failed device ends the worker.
    """

    def __init__(
        self,
        store: JobStore,
        storage: Storage,
        choose: Callable[[Job, Path], Choice],
        heartbeat: Heartbeat,
        name: str,
        run: Run,
        task: Callable[[Job, Path, Path], UpscaleTask],
        check: Callable[[Exception], object],
    ) -> None:
        self._store, self._storage, self._choose, self._heartbeat = store, storage, choose, heartbeat
        self._name, self._run, self._task, self._check = name, run, task, check
        self._table = PartTable(store.redis)
        self._unfit = ""
        """The last plan that this worker could not compute."""

    def help(self, job_id: str) -> None:
        """Compute an open part of a running job, if any. Raises StoreUnavailable."""
        job_log = JobLog(log, job_id)
        claim = self._table.claim(job_id, self._name)
        if claim is None:
            job_log.info("no longer queued")
            return
        with self._heartbeat.lease(claim) as lease:
            job_log.info("helps with segment %d", claim.number)
            state = self._attempt(claim, lease, job_log)
            self._release(claim, lease, state)
            job_log.info("segment %d is %s", claim.number, state)

    def _attempt(self, claim: PartClaim, lease: Lease, job_log: JobLog) -> JobState:
        """Compute a part. Returns done; queued: open again; or failed: left to the lead."""
        if claim.plan == self._unfit:
            return JobState.QUEUED
        files = self._storage.parts(claim.job_id)
        try:
            job = self._store.get(claim.job_id)
            with tracing.span("segment", parent=job.traceparent, job_id=job.id, number=claim.number):
                # The measurements of the job are those of all parts; this attempt reports its own.
                own = job.model_copy(update={"metrics": JobMetrics()})
                return self._compute(claim, Attempt(own, lease), files)
        except (NotFound, Fenced) as error:
            self._check(error)
            return JobState.QUEUED
        except (StoreUnavailable, StorageUnavailable):  # the worker stops while one of the two is away
            return JobState.QUEUED
        except Exception as error:
            self._check(error)
            job_log.warning("cannot compute segment %d: %s", claim.number, error)
            if isinstance(error, Unfit | StorageFull) or no_room(error) or out_of_memory(error):
                self._unfit = claim.plan
                return JobState.QUEUED
            return JobState.FAILED  # the lead meets the same error, and ends the job as it should end
        finally:
            files.leave(part_id(claim.number))
            self._storage.leave(claim.job_id)
            free_memory()

    def _compute(self, claim: PartClaim, attempt: Attempt, files: Storage) -> JobState:
        job = attempt.job
        source = stored(attempt.lease, lambda: self._storage.fetch_input(job.id))
        try:
            made = Plan.model_validate_json(claim.plan)
            model, natural = self._choose(job, source)
        except (ValidationError, ModelError) as error:
            raise Unfit(f"the plan is of no use to this worker: {error}") from error
        if model.identity(job.options.routing) != made.identity.model:
            raise Unfit("this worker has another model or device than the worker that has planned the job")
        folder = stored(attempt.lease, lambda: files.take_work(part_id(claim.number), claim.token))
        task = part_task(replace(self._task(job, source, folder), natural=natural), made, claim.number)
        save = partial(files.save, part_id(claim.number), folder)
        outcome = self._run(task, model, attempt, save)
        return JobState.DONE if isinstance(outcome, PartDone) else JobState.QUEUED

    def _release(self, claim: PartClaim, lease: Lease, state: JobState) -> None:
        """End the claim. An open part of a running job gets a new ticket for another worker.

        Raises StoreUnavailable if Redis does not answer until the worker stops; the lead then finds the part lost.
        """
        fields = lease.take_fields() if state is JobState.DONE else lease.take_fields_at_checkpoint()
        while True:
            try:
                held = self._table.release(claim, state, fields)
                break
            except StoreUnavailable:
                if lease.stop_reason is StopReason.SHUTDOWN:
                    raise
                lease.touch()
                time.sleep(_PAUSE)
        if held is JobState.QUEUED and lease.stop_reason is StopReason.SHUTDOWN:
            with suppress(StoreUnavailable, NotFound):
                priority = self._store.get(claim.job_id).options.priority
                self._table.call(claim.job_id, priority, 1, timeout=self._store.job_timeout)
