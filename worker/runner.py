"""One job from claim to publication: consumes `pipeline.upscale`, and is the only one to tell the store about it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, TypeVar

from jobs import tracing
from jobs.errors import JobFailed, StorageFull, StoreUnavailable
from jobs.schema import Job, JobMetrics, JobState, StreamFacts
from jobs.settings import Settings
from jobs.storage import Fenced, Storage
from jobs.store import Claim, JobStore
from media.limits import Limits
from media.probe import MediaInfo, probe
from media.spec import OutputSpec
from model.engine.memory import free_memory
from model.engine.upscaler import Upscaler
from model.errors import ModelError
from model.zoo.cache import ModelCache
from pipeline.upscale import ChunkDone, Event, Finished, Order, Started, Stopped, upscale
from worker.failure import explain, out_of_memory, problem
from worker.heartbeat import Heart, Hold
from worker.joblog import JobLog
from worker.metrics import Meters

log = logging.getLogger(__name__)
T = TypeVar("T")


class Runner:
    """Does jobs, one at a time, for the worker called `name`."""

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        storage: Storage,
        models: ModelCache[Upscaler],
        heart: Heart,
        meters: Meters,
        name: str,
    ) -> None:
        self._settings, self._store, self._storage = settings, store, storage
        self._models, self._heart, self._meters, self._name = models, heart, meters, name
        self._limits = Limits(**{field: getattr(settings, field) for field in Limits.__dataclass_fields__})

    def run(self, job_id: str) -> None:
        """Do a job, if it still waits to be done. Raises StoreUnavailable if it could not be claimed."""
        told = JobLog(log, job_id)
        claim = self._store.claim(job_id, self._name, above=self._storage.last_token(job_id))
        if claim is None:
            told.info("does not wait any more")
            return
        with self._heart.holding(claim) as hold:
            told.info("claimed with token %d", claim.token)
            begun = time.monotonic()
            self._meters.claimed()
            try:
                job = self._store.get(job_id)
                with tracing.span("upscale", parent=job.traceparent, job_id=job_id, attempt=job.attempt) as span:
                    state = self._work(job, claim, hold)
                    span.set_attribute("skipvsr.outcome", state)
            except Fenced:
                if self._without_files(job_id, claim, hold):
                    return
                told.warning("another worker has it; this one lets go")
                return
            except Exception as error:
                state = self._give_up(job_id, claim, hold, error)
            finally:
                free_memory()
            told.info("%s", state)
            self._meters.ended(state, time.monotonic() - begun)

    def _without_files(self, job_id: str, claim: Claim, hold: Hold) -> bool:
        """Fail a job that is this worker's, but whose files somebody has removed; False if it is not such a one."""
        if self._storage.input_path(job_id).exists():
            return False
        error = problem(JobFailed("The job's files are gone from the data folder; upload the video again."))
        now = self._insist(lambda: self._store.let_go(claim, JobState.FAILED, {"error": error}), hold)
        return now is JobState.FAILED

    # The stages of a job

    def _work(self, job: Job, claim: Claim, hold: Hold) -> str:
        begun = time.monotonic()
        order = Order(
            self._storage.input_path(job.id),
            self._storage.take_work(job.id, claim.token),
            job.options,
            self._limits,
            encoder=self._settings.encoder,
        )
        notes = _Notes(job)
        if notes.first:
            self._meters.queue_seconds.observe(notes.queue_seconds)
        model = self._models.get(job.options.model)
        self._meters.uses(model.name)
        hold.note({"model": model.name})
        short = False
        try:
            finished = self._consume(order, model, hold, notes)
        except Exception as error:
            if not out_of_memory(error):
                raise
            short = True
        if short:  # here, as the exception keeps all that filled the memory
            smaller = max(1, job.options.chunk // 4)
            notes.log.warning("out of memory; trying chunks of %d frames", smaller)
            notes.warnings.append(f"Memory was short: the job was done in chunks of {smaller} frames.")
            free_memory()
            finished = self._consume(replace(order, chunk=smaller), model, hold, notes)
        if finished is None:
            return self._stop(claim, hold, notes)
        path = self._storage.publish(finished.path, job.id)
        seconds = notes.seconds_before + time.monotonic() - begun
        fields: dict[str, Any] = {
            "model": model.name,
            "progress": finished.progress,
            "metrics": notes.metrics(finished.metrics, processing_seconds=seconds),
            "output": output_facts(probe(path, _BOUNDLESS), finished.spec),
            "warnings": [*finished.warnings, *notes.warnings],
            "error": None,
        }
        if self._insist(lambda: self._store.let_go(claim, JobState.DONE, fields), hold) is not JobState.DONE:
            raise Fenced(job.id)
        notes.log.info("published")
        self._meters.published(finished.metrics)
        self._storage.remove_work(job.id)
        return "done"

    def _consume(self, order: Order, model: Upscaler, hold: Hold, notes: _Notes) -> Finished | None:
        """Let the pipeline run, and note how far it is; None if it stopped before the end."""
        events = upscale(order, model, stop=hold.stop)
        try:
            for event in events:
                self._note(event, hold, notes)
                if isinstance(event, Finished):
                    return event
                if isinstance(event, Started):
                    self._check_room(event, order)
                if isinstance(event, Stopped) or hold.reason in ("cancel", "lost"):
                    return None
        finally:
            events.close()
        return None

    def _note(self, event: Event, hold: Hold, notes: _Notes) -> None:
        fields: dict[str, Any] = {"progress": event.progress}
        if isinstance(event, Started):
            notes.log.info("goes on" if event.resumed else "starts")
            fields["warnings"] = event.warnings
            if event.resumed:
                self._meters.resumes.inc()
        else:
            fields["metrics"] = notes.metrics(event.metrics)
        if isinstance(event, ChunkDone):
            extra = {"chunk": event.number, "frames": event.frames, "seconds": round(event.seconds, 3)}
            notes.log.info("chunk %d computed", event.number, extra=extra)
            tracing.mark("chunk", number=event.number, frames=event.frames, **event.stages)
            self._meters.chunk(event)
        hold.note(fields)

    def _check_room(self, event: Started, order: Order) -> None:
        """Raise StorageFull if the disk will not do for the segments and the result that they are joined to."""
        done, total = event.progress.frames_done, event.progress.frames_total
        if total is not None:
            self._storage.check_room(
                expected_bytes(event.spec, total - done)
                + expected_bytes(event.spec, total)
                + event.info.size_bytes // 4
            )

    def _stop(self, claim: Claim, hold: Hold, notes: _Notes) -> str:
        fields = hold.take_fields()
        if hold.reason == "lost":
            raise Fenced(claim.job_id)
        wanted = {"cancel": JobState.CANCELLED, "pause": JobState.PAUSED}.get(hold.reason, JobState.QUEUED)
        if wanted is JobState.CANCELLED:
            self._storage.remove(claim.job_id)  # first: whoever hears that it's cancelled finds no files
        state = self._insist(lambda: self._store.let_go(claim, wanted, fields), hold)
        if state is None:
            raise Fenced(claim.job_id)
        if state is JobState.CANCELLED:
            self._storage.remove(claim.job_id)
        return "handed back" if state is JobState.QUEUED else state.value

    def _give_up(self, job_id: str, claim: Claim, hold: Hold, error: Exception) -> str:
        """End a job that can't be done; one for which there is no room is paused, for that can be helped."""
        if isinstance(error, StoreUnavailable):
            raise error  # not the job's fault; it will be missed and taken up again
        ours = explain(error, self._settings.data_dir)
        if isinstance(error, ModelError) or ours.status != 500:
            JobLog(log, job_id).warning("%s", ours)
        else:
            JobLog(log, job_id).error("%s", ours, exc_info=error)
        state = JobState.PAUSED if isinstance(ours, StorageFull) else JobState.FAILED
        fields = {**hold.take_fields(), "error": problem(ours)}
        now = self._insist(lambda: self._store.let_go(claim, state, fields), hold)
        if now is JobState.CANCELLED:
            self._storage.remove(job_id)
        return now.value if now else "lost"

    def _insist(self, tell: Callable[[], T], hold: Hold) -> T:
        """Tell the store something, as often as it takes; only a shutdown makes it give up (StoreUnavailable)."""
        pause = 0.5
        while True:
            try:
                return tell()
            except StoreUnavailable:
                if hold.reason == "shutdown":
                    raise
                hold.note({})  # waiting for Redis is no hanging
                time.sleep(pause)
                pause = min(pause * 2, 5.0)


class _Notes:
    """What this run adds to what is in the job's document already."""

    def __init__(self, job: Job) -> None:
        self.log = JobLog(log, job.id)
        self.warnings: list[str] = []
        self.seconds_before = job.metrics.processing_seconds or 0.0
        self._begun = time.monotonic()
        queued = (datetime.now(UTC) - job.created_at).total_seconds()
        before = job.metrics.queue_seconds
        self.first = before is None
        """Whether no worker has had the job yet."""
        self.queue_seconds = max(0.0, queued) if before is None else before  # the wall clock may have been set back

    def metrics(self, measured: JobMetrics, processing_seconds: float | None = None) -> JobMetrics:
        """The metrics of the document."""
        if processing_seconds is None:
            processing_seconds = self.seconds_before + time.monotonic() - self._begun
        return measured.model_copy(
            update={"queue_seconds": self.queue_seconds, "processing_seconds": processing_seconds}
        )


_BOUNDLESS = Limits(
    max_pixels=2**62,
    max_output_pixels=2**62,
    max_upload_bytes=2**62,
    max_duration_seconds=2**62,
    max_frames=2**62,
    max_streams=2**16,
)
"""What we made ourselves is not held to what is allowed at the door."""


def output_facts(info: MediaInfo, spec: OutputSpec) -> StreamFacts:
    """What the job document says of the result."""
    video = info.video
    return StreamFacts(
        container=spec.container,
        codec=spec.codec,
        width=video.width,
        height=video.height,
        frames=video.frames,
        frame_rate=float(video.frame_rate) if video.frame_rate else None,
        duration_seconds=info.duration_seconds,
        pixel_format=video.pixel_format,
        bit_depth=video.bit_depth,
        size_bytes=info.size_bytes,
        audio=[track.codec for track in info.audio],
        subtitles=[track.codec for track in info.subtitles],
    )


def expected_bytes(spec: OutputSpec, frames: int) -> int:
    """A cautious guess at the size of so many encoded frames: 0.2 bits a pixel at CRF 18, half as much each 6 steps."""
    bits = Fraction(2, 10) * spec.width * spec.height * frames
    return int(bits / 8 * Fraction(2) ** round((18 - spec.crf) / 6))
