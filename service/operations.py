"""Operations on jobs, shared by the REST API and the gRPC server."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from jobs import idempotency, records, tracing
from jobs.allowance import Allowance, Meter
from jobs.disk import room
from jobs.errors import (
    Cancelled,
    FieldError,
    Gone,
    InvalidRequest,
    JobFailed,
    NotFound,
    NotReady,
    StorageUnavailable,
    StoreUnavailable,
)
from jobs.figures import Figures
from jobs.idempotency import Reservation
from jobs.incoming import Incoming
from jobs.presence import Presence, WorkerInfo
from jobs.retention import Retention
from jobs.schema import Job, JobState, Progress
from jobs.settings import Settings
from jobs.storage import Storage, new_id
from jobs.storages import open_storage
from jobs.store import JobStore, Page, Selection, connect, unavailable
from jobs.stored import StoredFile
from service.admission import Admission
from service.callers import ADMINISTRATOR, Caller
from service.estimates import Estimates
from service.resumable import Resumable


class Operations:
    """Operations on jobs, for one caller.

    Every method may raise StoreUnavailable; methods with a job id may raise NotFound. Jobs of other callers are
    unknown, unless the caller is an administrator. Whoever calls a method has checked the caller's scope.
    """

    def __init__(
        self,
        store: JobStore,
        storage: Storage,
        caller: Caller = ADMINISTRATOR,
        retention: Retention | None = None,
        estimates: Estimates | None = None,
        *,
        max_wait: float = 0,
    ) -> None:
        self.store = store
        self.storage = storage
        self.presence = Presence(store.redis)
        self.estimates = estimates or Estimates(store, self.presence)
        self._caller, self._retention, self._max_wait = caller, retention, max_wait
        self._allowance = Allowance(store.redis, caller.key_id, caller.limits, max_wait=max_wait)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Create the operations for a process. Raises ValueError if the settings have no Redis URL."""
        url = settings.redis_address
        if url is None:
            raise ValueError("no Redis: set SKIPVSR_REDIS_URL")
        store = JobStore(connect(url), job_timeout=settings.job_timeout_hours * 3600)
        max_wait = settings.max_queue_hours * 3600
        return cls(store, open_storage(settings), retention=Retention(settings), max_wait=max_wait)

    def for_caller(self, caller: Caller) -> Self:
        """The same operations for another caller."""
        return type(self)(self.store, self.storage, caller, self._retention, self.estimates, max_wait=self._max_wait)

    @property
    def resumable(self) -> Resumable:
        """The caller's resumable uploads."""
        return Resumable(self.store, self.storage, self._caller, self._allowance)

    @contextmanager
    def upload(self, expected: int = 0) -> Iterator[Incoming]:
        """Open a temporary file for an upload. The file is removed at the end of the block unless it was submitted.

        The file's name is the id of the future job.

        Args:
            expected: size in bytes; 0 if unknown.

        Raises:
            StoreUnavailable: Redis does not answer, so no job could be queued.
            StorageFull: the disk or the quota has no room, at the start or while bytes arrive.
            LimitReached: a limit of the caller's key, at the start or while bytes arrive.
        """
        self.store.ping()
        job_id = new_id()
        path = self.storage.uploads / f"{job_id}.part"
        with self._allowance.upload(job_id, expected) as meter:
            try:
                with room(self.storage.uploads):
                    self.storage.uploads.mkdir(parents=True, exist_ok=True)
                    incoming = Incoming(self.storage, path, expected, meter.count)
                    try:
                        yield incoming
                    finally:
                        incoming.close()
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def repeated_upload(self, expected: int = 0) -> Iterator[Meter]:
        """Count an upload that repeats an earlier one, and its bytes. Raises LimitReached."""
        with self._allowance.metered(new_id(), expected) as meter:
            yield meter

    @contextmanager
    def stream(self, *, resumed: bool) -> Iterator[Meter]:
        """Count a live stream, and the bytes that are reported to the meter. Raises LimitReached."""
        with self._allowance.stream(new_id(), resumed=resumed) as meter:
            yield meter

    def reserve_key(self, key: str) -> tuple[Job, str] | Reservation:
        """Reserve an idempotency key, or return the key's job with the fingerprint of its upload.

        Each caller has keys of their own.
        Renew the reservation (`renew_key`) until the upload is submitted (`submit`) or abandoned (`release_key`).
        Raises NotReady if another upload with the same key is in progress.
        """
        with unavailable():
            found = idempotency.reserve(self.store.redis, key, self._caller.key_id)
        if found is None:
            raise NotReady("Another upload with this Idempotency-Key is in progress. Try again when it has finished.")
        if isinstance(found, Reservation):
            return found
        try:
            return self.store.get(found.job_id), found.fingerprint
        except NotFound:  # the job was removed after the key had been used
            with unavailable():
                idempotency.forget(self.store.redis, found)
            return self.reserve_key(key)

    def renew_key(self, reservation: Reservation) -> None:
        """Extend a reservation. Call this every `idempotency.RENEW_SECONDS` during the upload."""
        with unavailable():
            idempotency.renew(self.store.redis, reservation)

    def release_key(self, reservation: Reservation) -> None:
        """Free a reserved key whose upload failed."""
        with unavailable():
            idempotency.release(self.store.redis, reservation)

    def submit(self, upload: Path, filename: str, admission: Admission, reservation: Reservation | None = None) -> Job:
        """Queue a job for the complete file of `upload`. A reserved key points to the new job for a day."""
        self._caller.confirm()
        job = Job(
            id=upload.stem,
            owner=self._caller.key_id,
            filename=filename,
            options=admission.options,
            input=admission.facts,
            warnings=admission.warnings,
            progress=Progress(frames_total=admission.frames),
            estimate=self.estimates.of(admission),
            webhook=admission.webhook,
            traceparent=tracing.current(),
        )
        self._allowance.hold(job.id)
        self.storage.adopt(upload, job.id)
        try:
            self.store.create(job, reservation)
        except StoreUnavailable:
            raise  # Redis may have stored the job; if not, the janitor removes its folder
        except BaseException:
            self.storage.give_back(upload, job.id)
            raise
        upload.unlink(missing_ok=True)  # still there if the storage has copied the file
        records.keep(self.storage, job, replaces=None)  # a worker may have finished the job already
        with suppress(StoreUnavailable, NotFound):  # the job exists, so the caller must get the document
            return self.get(job.id)
        return job

    def get(self, job_id: str) -> Job:
        """Return a job's document."""
        self._caller.confirm()
        self.storage.job_dir(job_id)  # raises NotFound for malformed ids
        job = self.store.get(job_id)
        if not self._caller.may_see(job.owner):
            raise NotFound.job(job_id)
        return self.announced([job])[0]

    def announced(self, jobs: Sequence[Job]) -> list[Job]:
        """The documents for callers, with the fields that depend on settings, queue and time."""
        placed = self.estimates.place(jobs)
        return [self._retention.announced(job) for job in placed] if self._retention else placed

    def recent(self, *, state: JobState | None = None, limit: int = 100, offset: int = 0) -> list[Job]:
        """Return jobs, newest first."""
        return self.page(() if state is None else (state,), limit=limit, offset=offset).jobs

    def page(self, states: Collection[JobState] = (), text: str = "", *, limit: int = 100, offset: int = 0) -> Page:
        """Return a part of the list of jobs, newest first, with the numbers of jobs.

        Args:
            states: only jobs in these states; empty: in any state.
            text: only jobs whose file name contains this text; case does not matter.
            limit: maximum number of jobs.
            offset: number of jobs to leave out at the start.
        """
        owner = None if self._caller.admin else self._caller.key_id
        found = self.store.page(Selection(states, owner, text), limit=limit, offset=offset)
        return replace(found, jobs=self.announced(found.jobs))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job. Files of a waiting job are removed now, files of a running job when the worker has stopped."""
        self.get(job_id)
        if self.store.request_cancel(job_id) is JobState.CANCELLED:
            with suppress(StorageUnavailable):  # the janitor removes the files later
                self.storage.remove(job_id)
        return self.get(job_id)

    def remove(self, job_id: str) -> Job:
        """Cancel an active job, or delete a finished job with its files. Returns the job's last document."""
        job = self.get(job_id)
        if not job.state.final:
            return self.cancel(job_id)
        if job.state is JobState.FAILED and not self.store.mark_files_removed(job_id):  # resumed by another request
            return self.remove(job_id)
        self.storage.remove(job_id)  # before the document: the janitor restores documents of existing files
        if not self.store.forget(job_id):  # removed by another request
            return self.remove(job_id)
        return job

    def pause(self, job_id: str) -> Job:
        """Pause a job within a frame's time. Finished chunks are kept, the chunk in work is dropped."""
        self.get(job_id)
        self.store.request_pause(job_id)
        return self._recorded(job_id)

    def resume(self, job_id: str) -> Job:
        """Queue a paused or failed job again, from its last checkpoint.

        Raises NotReady in any other state and if the job would fail again, Gone if the files of a failed job have been
        removed, and LimitReached if the caller's key has its number of jobs at a time.
        """
        job = self.get(job_id)
        state = job.state
        if state is JobState.FAILED:
            self._existing(self.storage.input(job_id), "upload", "SKIPVSR_FAILED_TTL_HOURS")
            if job.error and not job.resumable:
                raise NotReady(f"The job would fail again in the same way: {job.error.detail}")
        never = state in (JobState.DONE, JobState.CANCELLED)  # a running job may be paused in this moment
        with nullcontext() if never else self._allowance.slot(job_id):
            self.store.resume(job_id)
        return self._recorded(job_id)

    def _recorded(self, job_id: str) -> Job:
        """Return a job's document, and write its record."""
        job = self.store.get(job_id)
        with suppress(StorageUnavailable):  # the janitor writes the record later
            records.follow(self.storage, [job])
        return self.announced([job])[0]

    def result(self, job_id: str) -> tuple[Job, StoredFile]:
        """Return a finished job and its result.

        Raises:
            NotReady: the job is waiting, running or paused.
            SkipVsrError: the job failed; the error is the job's own.
            Cancelled: the job was cancelled.
            Gone: the result has expired.
        """
        job = self.get(job_id)
        if job.state is JobState.FAILED:
            raise job.error.to_error() if job.error else JobFailed("The job failed.")
        if job.state is JobState.CANCELLED:
            raise Cancelled("The job was cancelled and has no result.")
        if job.state is not JobState.DONE:
            raise NotReady(f"The job is {job.state}. Download the result when its state is done.")
        return job, self._existing(self.storage.result(job_id), "result", "SKIPVSR_RESULT_TTL_HOURS")

    def input(self, job_id: str) -> tuple[Job, StoredFile]:
        """Return a job and the uploaded file. Raises Gone if the file has expired."""
        job = self.get(job_id)
        return job, self._existing(self.storage.input(job_id), "upload", "SKIPVSR_INPUT_TTL_HOURS")

    def figures(self, job_id: str) -> tuple[Job, Figures]:
        """Return a job and the figures of its finished chunks.

        Raises:
            NotReady: no worker has begun the job.
            Cancelled: the job was cancelled.
            Gone: the job's files have been removed.
        """
        job = self.get(job_id)
        for folder in self.storage.figures_folders(job_id):
            if (found := Figures.read(folder)) is not None:
                return job, found
        if job.state is JobState.CANCELLED:
            raise Cancelled("The job was cancelled and has no figures.")
        if not job.state.final:
            raise NotReady("No worker has begun the job. Ask for its figures when the job runs.")
        raise Gone("The job has no figures: the job failed at its start, or its files have been removed.")

    def workers(self) -> list[WorkerInfo]:
        """Return the live workers."""
        return self.presence.workers()

    def models(self) -> list[str]:
        """Return the names of all models that live workers have, sorted."""
        return sorted({name for worker in self.workers() for name in worker.models})

    def check_model(self, name: str) -> None:
        """Raise InvalidRequest if live workers exist and none of them has the model."""
        known = self.models()
        if name != "auto" and known and name not in known:
            wrong = f"no worker has the model {name[:80]!r}; available: auto, {', '.join(known)}"
            raise InvalidRequest(wrong, [FieldError("model", wrong)])

    def scale_of(self, model: str) -> int | None:
        """Return the scale of a model, or of the workers' default for `auto`; None if no live worker has the model."""
        for worker in self.workers():
            scale = worker.scales.get(worker.model if model == "auto" else model)
            if scale is not None:
                return scale
        return None

    @staticmethod
    def _existing(file: StoredFile | None, kind: str, setting: str) -> StoredFile:
        if file is None:
            raise Gone(f"The {kind} has been removed: the job was cancelled, or the {kind} expired ({setting}).")
        return file
