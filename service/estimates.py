"""Estimates of jobs, and the places of waiting jobs in the queue."""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import mean
from typing import Final, Generic, NamedTuple, TypeVar, cast

from jobs import tickets
from jobs.errors import StoreUnavailable
from jobs.keys import job_key
from jobs.presence import Presence, WorkerInfo
from jobs.schema import Estimate, Job, JobState, Priority, QueuePlace
from jobs.speed import Forecast, SpeedTable, Work
from jobs.speed_records import RedisSpeeds
from jobs.store import JobStore, unavailable
from media.spec import estimated_bytes, expected_bytes
from service.admission import Admission

T = TypeVar("T")

_FRESH_SECONDS: Final = 2.0
"""Age up to which workers, speeds and the queue need not be read again."""


class _Cached(Generic[T]):
    """A value that is computed again when the value is too old. Threads may share it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._value: T | None = None
        self._made = 0.0

    def get(self, age: float = _FRESH_SECONDS) -> T:
        """Return the value, not older than `age` seconds."""
        with self._lock:
            if self._value is None or time.monotonic() - self._made >= age:
                self._value = self._make()
                self._made = time.monotonic()
            return self._value


@dataclass(frozen=True)
class _Crew:
    """The live workers, and their known speeds."""

    workers: list[WorkerInfo]
    tables: dict[str, SpeedTable]

    def able(self, model: str) -> list[WorkerInfo]:
        """Workers with a model; `auto`: with any."""
        return [worker for worker in self.workers if model == "auto" or model in worker.models]

    def resolved(self, admission: Admission) -> str:
        """Name of a job's model; `auto` if no worker is alive to choose."""
        model = admission.options.model
        return self.workers[0].resolved(model, admission.enlargement) if self.workers else model


@dataclass(frozen=True)
class _Queue:
    """The waiting jobs as of a moment."""

    places: dict[str, QueuePlace]
    after: dict[Priority, float | None] = field(default_factory=dict)
    """Seconds until a worker takes a new job, by its priority."""


class Output(NamedTuple):
    """The expected result of a job. None: the file does not tell."""

    width: int
    height: int
    frames: int | None
    frame_rate: float
    duration_seconds: float | None
    bytes: int | None


@dataclass(frozen=True)
class Answer:
    """An estimate for a video that may be submitted."""

    admission: Admission
    model: str
    """Name of the model; `auto` only if no worker is alive."""
    estimate: Estimate | None
    """None if the frames or the workers' speed are unknown."""
    bytes: int | None
    wait_seconds: float | None
    workers: int
    """Live workers that have the model."""
    warnings: list[str]

    @property
    def output(self) -> Output:
        """The expected result."""
        admission, spec = self.admission, self.admission.spec
        return Output(
            spec.width,
            spec.height,
            admission.expected_frames,
            float(spec.frame_rate),
            admission.facts.duration_seconds,
            self.bytes,
        )

    @property
    def scale(self) -> float:
        """The enlargement."""
        return round(self.admission.spec.height / self.admission.facts.height, 3)


class Estimates:
    """Estimates from the speeds that workers have measured. Methods raise `StoreUnavailable`."""

    def __init__(self, store: JobStore, presence: Presence) -> None:
        self._store, self._presence = store, presence
        self._speeds = RedisSpeeds(store.redis)
        self._crew = _Cached(self._read_crew)
        self._queue = _Cached(self._read_queue)
        self._known: dict[str, float | None] = {}
        """Estimated seconds of each waiting job; an estimate never changes."""

    def of(self, admission: Admission) -> Estimate | None:
        """Estimate a job; None if the frames or the workers' speed are unknown."""
        return self._estimate(admission, self._crew.get())

    def answer(self, admission: Admission) -> Answer:
        """Estimate a job that may be submitted, with its wait."""
        crew = self._crew.get()
        model, estimate = crew.resolved(admission), self._estimate(admission, crew)
        frames, warnings = admission.expected_frames, list(admission.warnings)
        if frames is None:
            warnings.append("The file does not state its length; the time is unknown until the job has run.")
        elif not crew.workers:
            warnings.append("No worker is alive; the time is unknown until one starts.")
        elif estimate is None:
            warnings.append("The speed of the workers is unknown until a first job has run.")
        size = estimate.bytes if estimate else frames and estimated_bytes(admission.spec, frames)
        wait = self._queue.get().after.get(admission.options.priority)
        workers = len(crew.able(admission.options.model))
        return Answer(admission, model, estimate, size, wait, workers, warnings)

    def place(self, jobs: Iterable[Job]) -> list[Job]:
        """Add the places in the queue to the documents of waiting jobs; without Redis, the places are unknown."""
        found = list(jobs)
        waiting = [job.id for job in found if job.state is JobState.QUEUED]
        if not waiting:
            return found
        try:
            places = self._queue.get().places
            if not places.keys() >= set(waiting):  # a new job
                places = self._queue.get(age=0.0).places
        except StoreUnavailable:  # the caller has the documents, and must get them
            return found
        return [
            job.model_copy(update={"queue": places.get(job.id)}) if job.state is JobState.QUEUED else job
            for job in found
        ]

    def _read_crew(self) -> _Crew:
        workers = self._presence.workers()
        machines = {worker.machine for worker in workers if worker.machine}
        return _Crew(workers, {machine: self._speeds.table(machine) for machine in machines})

    def _estimate(self, admission: Admission, crew: _Crew) -> Estimate | None:
        """The mean over the workers that may take the job; the bounds hold for all."""
        options, spec, frames = admission.options, admission.spec, admission.expected_frames
        able = crew.able(options.model)
        if frames is None or not able:
            return None
        source, output = (admission.facts.width, admission.facts.height), (spec.width, spec.height)
        work = Work.of(crew.resolved(admission), options, spec.codec, source, output)
        tables = [crew.tables[worker.machine] for worker in able if worker.machine in crew.tables]
        found = [forecast for table in tables if (forecast := table.forecast(work, frames))]
        if not found:
            return None
        frame = next(frame for table in tables if (frame := table.per_frame(work)))
        return Estimate(
            **_joined(found),
            width=spec.width,
            height=spec.height,
            frames=frames,
            bytes=expected_bytes(spec, frames, frame.bits),
        )

    def _read_queue(self) -> _Queue:
        """Let the workers take the waiting jobs in order, each for the estimated time."""
        redis, workers = self._store.redis, len(self._presence.workers())
        with unavailable():
            tickets_of = tickets.waiting_by_priority(redis)
        queued = self._store.ids(JobState.QUEUED)  # a surplus ticket has no effect
        waiting = {priority: [job_id for job_id in ids if job_id in queued] for priority, ids in tickets_of.items()}
        running = self._remaining()
        self._learn([job_id for ids in waiting.values() for job_id in ids])
        known = [seconds for seconds in self._known.values() if seconds is not None]
        usual = mean(known) if known else None
        free: list[float | None] = [*running[:workers], *[0.0] * (workers - len(running))]
        line = _Line(free)
        places: dict[str, QueuePlace] = {}
        after: dict[Priority, float | None] = {}
        for priority, ids in waiting.items():
            for job_id in ids:
                seconds = self._known.get(job_id)
                wait = line.take(usual if seconds is None else seconds)
                places[job_id] = QueuePlace(position=len(places) + 1, wait_seconds=wait)
            after[priority] = line.wait()
        return _Queue(places, after)

    def _remaining(self) -> list[float | None]:
        """Estimated seconds until the end of each running job."""
        ids = sorted(self._store.ids(JobState.RUNNING))
        with unavailable(), self._store.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(job_key(job_id), "progress", "estimate")
            rows = cast("list[list[bytes | None]]", pipe.execute())
        remaining: list[float | None] = []
        for progress, estimate in rows:
            eta = (json.loads(progress) if progress else {}).get("eta_seconds")
            remaining.append(_seconds(estimate) if eta is None else eta)
        return remaining

    def _learn(self, ids: list[str]) -> None:
        """Read the estimates of new jobs in the queue, and forget jobs that have left the queue."""
        new = [job_id for job_id in ids if job_id not in self._known]
        with unavailable(), self._store.redis.pipeline(transaction=False) as pipe:
            for job_id in new:
                pipe.hget(job_key(job_id), "estimate")
            found = cast("list[bytes | None]", pipe.execute())
        self._known.update(zip(new, map(_seconds, found), strict=True))
        self._known = {job_id: self._known[job_id] for job_id in ids}


class _Line:
    """Workers that become free one after the other. None: nobody knows when."""

    def __init__(self, free: list[float | None]) -> None:
        self._known = all(seconds is not None for seconds in free) and bool(free)
        self._free = [seconds or 0.0 for seconds in free]
        heapq.heapify(self._free)

    def wait(self) -> float | None:
        """Seconds until the next worker is free."""
        return self._free[0] if self._known else None

    def take(self, seconds: float | None) -> float | None:
        """Give the next free worker a job; return the seconds until then."""
        wait = self.wait()
        if seconds is None:
            self._known = False
        elif wait is not None:
            heapq.heapreplace(self._free, wait + seconds)
        return wait


def _joined(found: list[Forecast]) -> dict[str, object]:
    return {
        "seconds": round(mean(forecast.seconds for forecast in found), 1),
        "seconds_low": round(min(forecast.low for forecast in found), 1),
        "seconds_high": round(max(forecast.high for forecast in found), 1),
        "basis": found[0].basis,
    }


def _seconds(estimate: bytes | None) -> float | None:
    found = json.loads(estimate) if estimate else None
    return found["seconds"] if isinstance(found, dict) else None
