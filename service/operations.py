"""What can be done with a job, whichever way it is asked for: REST and gRPC both come here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from jobs import idempotency as once
from jobs import tracing
from jobs.errors import Cancelled, Gone, InvalidRequest, JobFailed, NotFound, NotReady, StoreUnavailable
from jobs.idempotency import Reservation
from jobs.incoming import Incoming
from jobs.presence import Presence, WorkerInfo
from jobs.schema import Job, JobState, Progress
from jobs.settings import Settings
from jobs.storage import Storage, new_id, room
from jobs.store import JobStore, connect, unavailable
from service.admission import Admission


class Operations:
    """The operations on jobs. All raise `StoreUnavailable` when Redis is away, and `NotFound` for unknown ids."""

    def __init__(self, store: JobStore, storage: Storage) -> None:
        self.store = store
        self.storage = storage
        self.presence = Presence(store.redis)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Build them for a process. Raises ValueError if the settings name no Redis."""
        if settings.redis_url is None:
            raise ValueError("no Redis: set SKIPVSR_REDIS_URL")
        store = JobStore(connect(settings.redis_url), job_timeout=settings.job_timeout_hours * 3600)
        return cls(store, Storage.from_settings(settings))

    @contextmanager
    def upload(self, expected: int = 0) -> Iterator[Incoming]:
        """Where to write a file of `expected` bytes, if known. What is not submitted within the block is removed.

        Raises `StoreUnavailable` if no job could be queued anyway, `StorageFull` if there is no room, or no more.
        """
        self.store.ping()
        path = self.storage.uploads / f"{new_id()}.part"
        try:
            with room(self.storage.uploads):
                self.storage.uploads.mkdir(parents=True, exist_ok=True)
                incoming = Incoming(self.storage, path, expected)
                try:
                    yield incoming
                finally:
                    incoming.close()
        finally:
            path.unlink(missing_ok=True)

    def begin_once(self, key: str) -> Job | Reservation:
        """Reserve an idempotency key, or find the job that it has led to.

        A reservation is to be kept (`keep_once`) until it goes along with `submit`, or to be given up (`drop_once`).
        Raises `NotReady` while another request with the key is under way.
        """
        with unavailable():
            found = once.reserve(self.store.redis, key)
        if found is None:
            raise NotReady("An upload with this Idempotency-Key is still under way; ask again when it has ended.")
        if isinstance(found, Reservation):
            return found
        try:
            return self.store.get(found)
        except NotFound:  # it has been removed since
            with unavailable():
                once.forget(self.store.redis, key, found)
            return self.begin_once(key)

    def keep_once(self, reservation: Reservation) -> None:
        """Say that the upload with a key is still under way; to be called every `once.RENEW_SECONDS`."""
        with unavailable():
            once.renew(self.store.redis, reservation)

    def drop_once(self, reservation: Reservation) -> None:
        """Let a key that has led to no job be used again."""
        with unavailable():
            once.release(self.store.redis, reservation)

    def submit(self, upload: Path, filename: str, admission: Admission, reservation: Reservation | None = None) -> Job:
        """Make a file that has arrived whole a job, and queue it; remember for a day that its key has led to it."""
        job = Job(
            id=new_id(),
            filename=filename,
            options=admission.options,
            input=admission.facts,
            warnings=admission.warnings,
            progress=Progress(frames_total=admission.facts.frames),
            traceparent=tracing.current(),
        )
        self.storage.adopt(upload, job.id)
        try:
            self.store.create(job, reservation)
        except StoreUnavailable:
            raise  # it may be a job all the same; if it is none, the janitor finds its folder
        except BaseException:
            self.storage.remove(job.id)
            raise
        return job

    def get(self, job_id: str) -> Job:
        """A job's document."""
        self.storage.job_dir(job_id)  # raises NotFound for what can't be an id
        return self.store.get(job_id)

    def recent(self, *, state: JobState | None = None, limit: int = 100, offset: int = 0) -> list[Job]:
        """Jobs, newest first."""
        return self.store.list(state=state, limit=limit, offset=offset)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; its files go at once where it waits, and within one chunk where it runs."""
        self.storage.job_dir(job_id)
        if self.store.request_cancel(job_id) is JobState.CANCELLED:
            self.storage.remove(job_id)
        return self.store.get(job_id)

    def remove(self, job_id: str) -> Job:
        """Cancel a job that is not over; one that is over is forgotten, with its files. Returns what it was last."""
        job = self.get(job_id)
        if not job.state.final:
            return self.cancel(job_id)
        if not self.store.forget(job_id):  # somebody has just resumed it, or removed it
            return self.remove(job_id)
        self.storage.remove(job_id)
        return job

    def pause(self, job_id: str) -> Job:
        """Stop a job at its next chunk and keep what is done."""
        self.storage.job_dir(job_id)
        self.store.request_pause(job_id)
        return self.store.get(job_id)

    def resume(self, job_id: str) -> Job:
        """Let a paused job, or one that failed, go on where it stopped.

        Raises `NotReady` if it is neither, and `Gone` if the files of a failed one have been removed.
        """
        if self.get(job_id).state is JobState.FAILED:
            self._kept(self.storage.input_path(job_id), "upload", "SKIPVSR_FAILED_TTL_HOURS")
        self.store.resume(job_id)
        return self.store.get(job_id)

    def result(self, job_id: str) -> tuple[Job, Path]:
        """A finished job and its file.

        Raises `NotReady` while it is not done, `JobFailed` with the reason if it failed, `Cancelled` if it was, and
        `Gone` if the file's time is over.
        """
        job = self.get(job_id)
        if job.state is JobState.FAILED:
            raise JobFailed(job.error.detail if job.error else "The job failed.")
        if job.state is JobState.CANCELLED:
            raise Cancelled("The job was cancelled; there is no result.")
        if job.state is not JobState.DONE:
            raise NotReady(f"The job is {job.state}; there is a result once it is done.")
        return job, self._kept(self.storage.result_path(job_id), "result", "SKIPVSR_RESULT_TTL_HOURS")

    def input(self, job_id: str) -> tuple[Job, Path]:
        """A job and the file that was uploaded. Raises `Gone` if the file's time is over."""
        job = self.get(job_id)
        return job, self._kept(self.storage.input_path(job_id), "upload", "SKIPVSR_INPUT_TTL_HOURS")

    def workers(self) -> list[WorkerInfo]:
        """The workers that are alive."""
        return self.presence.workers()

    def models(self) -> list[str]:
        """Names of the models that a worker which is alive has."""
        return sorted({name for worker in self.workers() for name in worker.models})

    def check_model(self, name: str) -> None:
        """Raise InvalidRequest if workers are alive and none of them has that model."""
        known = self.models()
        if name != "auto" and known and name not in known:
            raise InvalidRequest(f"no worker has a model {name[:80]!r}; there are: auto, {', '.join(known)}")

    @staticmethod
    def _kept(path: Path, what: str, setting: str) -> Path:
        if not path.exists():
            raise Gone(f"The {what} has been removed: its job was cancelled or its time ({setting}) is over.")
        return path
