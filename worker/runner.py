"""The processing of one job, from the claim to the publication of the result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from jobs import records, tracing
from jobs.errors import JobFailed, StorageFull, StorageUnavailable, StoreUnavailable
from jobs.figures import FILES as FIGURES
from jobs.names import result_name
from jobs.parts import PartClaim
from jobs.schema import Job, JobState, Problem
from jobs.settings import Settings
from jobs.storage import Fenced, Storage
from jobs.store import Claim, JobStore
from media.limits import Limits
from media.probe import probe
from media.spec import estimated_bytes
from model.engine.memory import free_memory
from model.engine.upscaler import Upscaler
from model.errors import ModelError
from model.faults import advice, device_failure, told
from model.zoo.cache import ModelCache
from pipeline.checkpoint import shortened_chunk
from pipeline.choice import Choice, choose
from pipeline.events import ChunkDone, Event, Finished, PartDone, Started, Stopped, Working
from pipeline.source import media_limits, probe_source, stream_facts
from pipeline.speedometer import Speedometer
from pipeline.task import UpscaleTask
from pipeline.upscale import upscale
from worker.attempt import DEVICE_FAILED, OUT_OF_MEMORY, Attempt, stored
from worker.errors import is_final, out_of_memory, user_error
from worker.heartbeat import Heartbeat
from worker.helper import Helper
from worker.job_log import JobLog
from worker.lead import Lead
from worker.lease import STATE_AFTER, Lease, StopReason
from worker.metrics import WorkerMetrics
from worker.patience import patiently
from worker.speeds import WorkerSpeeds

log = logging.getLogger(__name__)
T = TypeVar("T")

_UNLIMITED: Final = Limits(
    max_pixels=2**62,
    max_output_pixels=2**62,
    max_upload_bytes=2**62,
    max_duration_seconds=2**62,
    max_frames=2**62,
    max_streams=2**16,
    max_probe_memory_bytes=2**32,
)
"""Limits for probing our own results; the settings limit only uploads."""


class Outcome(StrEnum):
    """How an attempt at a job ended for this worker."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    HANDED_BACK = "handed back"
    """The job is queued again, because the worker process ends."""
    LOST = "lost"
    """Another worker has the job."""

    @classmethod
    def of(cls, state: JobState) -> Outcome:
        """Outcome of an attempt that leaves the job in a state."""
        return cls.HANDED_BACK if state is JobState.QUEUED else cls(state.value)


class Runner:
    """Processes jobs, one at a time.

    Args:
        settings: the settings.
        store: the jobs; a Redis client that the heartbeat thread does not use.
        storage: the files.
        models: the networks.
        heartbeat: the heartbeat thread.
        metrics: the worker's metrics.
        name: the worker's name in the job document.
        speeds: keeps the measured speeds.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        storage: Storage,
        models: ModelCache[Upscaler],
        heartbeat: Heartbeat,
        metrics: WorkerMetrics,
        name: str,
        speeds: WorkerSpeeds,
    ) -> None:
        self._settings, self._store, self._storage = settings, store, storage
        self._models, self._heartbeat, self._metrics, self._name = models, heartbeat, metrics, name
        self._speeds = speeds
        self._limits = media_limits(settings)
        self.device_failed = False
        """Whether this process can use its device no more, and must end."""
        self._lead = Lead(settings, store, storage, name, self._upscale)
        self._helper = Helper(
            store, storage, self._choose, heartbeat, name, self._upscale, self._task, self._check_device
        )

    def run(self, job_id: str) -> None:
        """Process a job if the job is still queued. Raises StoreUnavailable if Redis is down at the claim."""
        job_log = JobLog(log, job_id)
        try:
            above = patiently(lambda: self._storage.last_token(job_id), stopped=lambda: self._heartbeat.stopping)
        except StorageUnavailable:
            job_log.warning("not claimed: the worker stops, and the bucket does not answer")
            return
        claim = self._store.claim(job_id, self._name, above=above)
        if claim is None:
            self._helper.help(job_id)
            return
        with self._heartbeat.lease(claim) as lease:
            job_log.info("claimed with token %d", claim.token)
            started = time.monotonic()
            self._metrics.claimed()
            try:
                outcome = self._process(claim, lease)
            except Fenced as error:
                self._check_device(error)
                if not self._fail_without_files(lease):
                    job_log.warning("another worker has the job; stopping")
                return
            except Exception as error:
                end = self._hand_back if self._check_device(error) else self._fail
                outcome = end(lease, error)
            finally:
                self._storage.leave(job_id)
                free_memory()
            if outcome in (Outcome.DONE, Outcome.FAILED, Outcome.CANCELLED):
                self._lead.end(job_id)
            job_log.info("%s", outcome)
            self._metrics.ended(outcome, time.monotonic() - started)

    def _process(self, claim: Claim, lease: Lease) -> Outcome:
        """Process a claimed job. A job that has to stop while the bucket is away keeps its last saved checkpoint."""
        try:
            return self._attempt(claim, lease)
        except StorageUnavailable:
            return self._stop(lease)

    def _attempt(self, claim: Claim, lease: Lease) -> Outcome:
        job = self._store.get(claim.job_id)
        with tracing.span("upscale", parent=job.traceparent, job_id=job.id, attempt=job.attempt) as span:
            attempt = Attempt(job, lease)
            source = stored(lease, lambda: self._storage.fetch_input(job.id))
            task = self._task(job, source, stored(lease, lambda: self._storage.take_work(job.id, claim.token)))
            if attempt.is_first:
                self._metrics.queue_seconds.observe(attempt.queue_seconds)
            model, natural = self._choose(job, source)
            lease.update({"model": model.name, "device": model.place})
            finished = self._lead.upscale(replace(task, natural=natural), model, attempt)
            outcome = self._stop(lease) if finished is None else self._publish(finished, model, attempt)
            span.set_attribute("skipvsr.outcome", outcome)
            return outcome

    def _choose(self, job: Job, source: Path) -> Choice:
        """Load the model of a job."""
        facts = job.input or stream_facts(probe_source(source, job.options, self._limits))
        return choose(self._models, job.options, facts.width, facts.height)

    def _task(self, job: Job, source: Path, folder: Path) -> UpscaleTask:
        return UpscaleTask(
            source,
            folder,
            job.options,
            self._limits,
            encoder=self._settings.encoder,
            max_model_bytes=self._settings.max_model_bytes,
        )

    # The stages of a job

    def _upscale(
        self, task: UpscaleTask, model: Upscaler, attempt: Attempt, save: Callable[[], None]
    ) -> Finished | PartDone | None:
        """Run the pipeline, and once more with smaller chunks if the memory is too small; None if the job stopped.

        `save` makes a checkpoint available to other workers.
        """
        self._metrics.uses(model.name)
        try:
            return self._run_pipeline(task, model, attempt, save)
        except Exception as error:
            if not out_of_memory(error) or isinstance(attempt.lease.claim, PartClaim):
                raise  # a helper with smaller chunks would change the bytes of the result
        # Outside of the except block, because the exception refers to the objects that fill the memory.
        chunk = max(1, min(task.frames_per_chunk, shortened_chunk(task.folder) or task.options.chunk) // 4)
        attempt.log.warning("out of memory; trying chunks of %d frames", chunk)
        attempt.warn(f"{OUT_OF_MEMORY}: the job used chunks of {chunk} frames.")
        free_memory()
        return self._run_pipeline(replace(task, chunk=chunk), model, attempt, save)

    def _run_pipeline(
        self, task: UpscaleTask, model: Upscaler, attempt: Attempt, save: Callable[[], None]
    ) -> Finished | PartDone | None:
        """Run the pipeline and report its progress; None if the job stopped."""
        warm_up = task.part.warm_up if task.part is not None else 0
        speedometer = Speedometer(model.name, task.options, self._speeds.add, warm_up=warm_up)
        events = upscale(task, model, stop=attempt.lease.stop, halt=attempt.lease.halt)
        try:
            for event in events:
                if isinstance(event, ChunkDone):
                    stored(attempt.lease, save)
                speedometer.take(event)
                self._report(event, attempt)
                match event:
                    case Finished() | PartDone():
                        return event
                    case Started():
                        self._check_room(event)
                    case Stopped():
                        return None
                reason = attempt.lease.stop_reason
                if reason is not None and reason.abandons_chunk:
                    return None
        finally:
            events.close()
        return None

    def _report(self, event: Event, attempt: Attempt) -> None:
        """Pass an event on to the log, the metrics, the trace and the job document."""
        if attempt.others is not None:
            attempt.others.look()
        progress = {"progress": attempt.progress(event)}
        match event:
            case Started():
                if not attempt.begun:
                    attempt.log.info("resumes" if event.resumed else "starts")
                    self._metrics.resumes.inc(event.resumed)
                attempt.begun = True
                attempt.lease.update({**progress, "warnings": attempt.with_warnings(event.warnings)})
            case Working():
                attempt.lease.note(progress)
                if event.checkpoint_seconds is not None:
                    attempt.lease.expect_checkpoint(event.checkpoint_seconds)
            case ChunkDone():
                extra = {"chunk": event.number, "frames": event.frames, "seconds": round(event.seconds, 3)}
                attempt.log.info("chunk %d computed", event.number, extra=extra)
                tracing.mark("chunk", number=event.number, frames=event.frames, **event.stages)
                self._metrics.chunk(event)
                attempt.lease.touch()
                attempt.lease.note({**progress, "metrics": attempt.metrics(event.metrics)})
            case Stopped() | PartDone() | Finished():
                attempt.lease.update({**progress, "metrics": attempt.metrics(event.metrics)})

    def _check_room(self, event: Started) -> None:
        """Raise StorageFull if the disk has no room for the remaining segments and the result."""
        done, total = event.progress.frames_done, event.progress.frames_total
        if total is not None:
            segments = estimated_bytes(event.spec, total - done)
            result = estimated_bytes(event.spec, total) + event.info.size_bytes // 4
            self._storage.check_room(segments + result)

    def _publish(self, finished: Finished, model: Upscaler, attempt: Attempt) -> Outcome:
        job_id = attempt.job.id
        fields: dict[str, Any] = {
            "model": model.name,
            "device": model.place,
            "progress": finished.progress,
            "metrics": attempt.metrics(finished.metrics),
            "output": stream_facts(
                probe(finished.path, _UNLIMITED),
                finished.spec,
                frames=finished.progress.frames_done,
                frame_rate=finished.frame_rate,
            ),
            "warnings": attempt.with_warnings(finished.warnings),
            "error": None,
            "worker": self._name,
        }
        done = attempt.job.model_copy(update={**fields, "state": JobState.DONE})
        name = result_name(done, finished.path.name)
        figures = [finished.path.with_name(each) for each in FIGURES]
        # Figures that are missing have been published before the worker died.
        also = [path for path in figures if path.exists()]
        stored(attempt.lease, lambda: self._storage.publish(finished.path, job_id, also=also, name=name))
        fields["finished_at"] = datetime.now(UTC)
        done = done.model_copy(update={"finished_at": fields["finished_at"]})
        records.keep(self._storage, done, through=finished.path.parent)
        if self._release(attempt.lease, JobState.DONE, fields) is not JobState.DONE:
            raise Fenced(job_id)
        attempt.log.info("published")
        self._metrics.published(finished.metrics)
        with suppress(StorageUnavailable):  # here and below: the janitor removes the files later
            self._storage.remove_work(job_id)
        return Outcome.DONE

    # Ends of a job

    def _stop(self, lease: Lease) -> Outcome:
        """End a stopped job: cancelled, paused or queued again. Raises Fenced if another worker has the job."""
        job_id, fields, reason = lease.claim.job_id, lease.take_fields(), lease.stop_reason
        if reason is StopReason.LOST:
            raise Fenced(job_id)
        wanted = STATE_AFTER[reason]
        if wanted is JobState.CANCELLED:
            with suppress(StorageUnavailable):
                self._storage.remove(job_id)  # before the release: a cancelled job has no files
        state = self._release(lease, wanted, fields)
        if state is None:
            raise Fenced(job_id)
        if state is JobState.CANCELLED:
            with suppress(StorageUnavailable):
                self._storage.remove(job_id)
        return Outcome.of(state)

    def _fail(self, lease: Lease, error: Exception) -> Outcome:
        """End a job after an error. A job without disk space is paused, because the user can free space."""
        if isinstance(error, StoreUnavailable):
            raise error  # no fault of the job: another worker will detect the loss and requeue the job
        shown = user_error(error, self._settings.data_dir)
        job_log = JobLog(log, lease.claim.job_id)
        if isinstance(error, ModelError) or shown.status != 500:
            job_log.warning("%s", shown)
        else:
            job_log.error("%s", shown, exc_info=error)
        state = JobState.PAUSED if isinstance(shown, StorageFull) else JobState.FAILED
        if is_final(error):
            with suppress(StorageUnavailable):
                self._storage.remove_work(lease.claim.job_id, lease.claim.token)
        now = self._release(lease, state, {**lease.take_fields_at_checkpoint(), "error": Problem.from_error(shown)})
        if now is JobState.CANCELLED:
            with suppress(StorageUnavailable):
                self._storage.remove(lease.claim.job_id)
        return Outcome.of(now) if now else Outcome.LOST

    def _check_device(self, error: Exception) -> BaseException | None:
        """Return the failure of the device behind an error, and stop this worker's claims; None for other errors."""
        failure = device_failure(error)
        if failure is not None:
            self.device_failed = True
            log.critical("%s", advice(failure))
        return failure

    def _hand_back(self, lease: Lease, error: Exception) -> Outcome:
        """Queue a job again whose device failed. The failure is the worker's, unless it repeats at the same frame."""
        fields, failure = lease.take_fields_at_checkpoint(), device_failure(error) or error
        warning = f"{DEVICE_FAILED} ({self._name}: {told(failure)}). All finished chunks were kept."
        most = self._settings.max_deaths
        state = self._insist(lease, lambda: self._store.hand_back(lease.claim, fields, warning, most=most))
        if state is JobState.CANCELLED:
            with suppress(StorageUnavailable):
                self._storage.remove(lease.claim.job_id)
        return Outcome.of(state) if state else Outcome.LOST

    def _fail_without_files(self, lease: Lease) -> bool:
        """Fail a job whose files somebody removed; return False if the files exist or another worker has the job."""
        try:
            if stored(lease, lambda: self._storage.input(lease.claim.job_id)) is not None:
                return False
        except StorageUnavailable:
            return False
        error = JobFailed("The job's files are gone from the data folder; upload the video again.")
        fields = {"error": Problem.from_error(error), "files_removed": True}
        return self._release(lease, JobState.FAILED, fields) is JobState.FAILED

    def _release(self, lease: Lease, state: JobState, fields: dict[str, Any]) -> JobState | None:
        """Release a job in the store, however long Redis is away."""
        return self._insist(lease, lambda: self._store.release(lease.claim, state, fields))

    def _insist(self, lease: Lease, call: Callable[[], T]) -> T:
        """Make a call to the store, and repeat the call until Redis answers.

        Raises StoreUnavailable only if the worker shuts down meanwhile.
        """
        pause = 0.5
        while True:
            try:
                return call()
            except StoreUnavailable:
                if lease.stop_reason is StopReason.SHUTDOWN:
                    raise
                lease.touch()  # a job that waits for Redis does not hang
                time.sleep(pause)
                pause = min(pause * 2, 5.0)
