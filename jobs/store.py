"""Jobs in Redis: their documents, who has them, and what was asked of them.

Every change of state is one script in Redis that checks what the change presumes. A worker that takes a job gets a
*fencing token*, a number that only grows; whatever it then says about the job counts only as long as the job still
carries that token.

Keys: `skipvsr:job:<id>` (hash), `skipvsr:jobs` (ids by age), `skipvsr:state:<state>` (sets of ids), `skipvsr:fence`
(the last token), and those of `jobs.presence` and `jobs.idempotency`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self, cast

from pydantic import BaseModel
from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from jobs import idempotency as once
from jobs import tickets
from jobs.errors import Gone, NotFound, NotReady, StoreUnavailable
from jobs.hashes import encode, from_hash, to_hash
from jobs.idempotency import Reservation
from jobs.schema import Job, JobState, Priority, Problem
from jobs.scripts import FORGET, TRANSITION
from jobs.settings import Settings

PREFIX: Final = "skipvsr:"

_ASKED: Final = {"cancel": JobState.CANCELLED, "pause": JobState.PAUSED}
"""What becomes of a job of which that has been asked."""


def connect(url: str, *, timeout: float = 5.0, attempts: int = 3) -> Redis:
    """A client that gives up after `timeout` seconds of silence.

    Where the connection is refused or breaks it tries `attempts` times, with growing pauses in between. A Redis that is
    silent is not asked again: each time would take as long, and whoever waits for the answer wants it before that.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, 3.0),
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), attempts, supported_errors=(RedisConnectionError,)),
    )


@contextmanager
def unavailable() -> Iterator[None]:
    """Turn Redis's errors into `StoreUnavailable`."""
    try:
        yield
    except RedisError as error:
        raise StoreUnavailable(
            f"Redis does not answer ({error or type(error).__name__}). Try again shortly."
        ) from error


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a job: `token` is what it proves it with."""

    job_id: str
    token: int


@dataclass(frozen=True)
class Beat:
    """Answer to a heartbeat: whether the job is still the worker's, and what was asked of it (cancel, pause or "")."""

    held: bool
    request: str


class JobStore:
    """The jobs in one Redis.

    Every method raises `StoreUnavailable` when Redis does not answer, and those that name a job raise `NotFound` when
    there is none of that id. `job_timeout` (seconds) goes on each ticket.
    """

    def __init__(self, redis: Redis, *, job_timeout: int = 720 * 3600) -> None:
        self.redis = redis
        self.job_timeout = job_timeout
        self._transition = redis.register_script(TRANSITION)
        self._forget = redis.register_script(FORGET)

    @classmethod
    def from_settings(cls, settings: Settings, redis_url: str | None = None) -> Self:
        """The store that the settings name; `redis_url` is for where they name none. Does not connect yet."""
        url = redis_url or settings.redis_url
        if url is None:
            raise StoreUnavailable("No Redis is known. Set SKIPVSR_REDIS_URL, or use `skipvsr up`.")
        return cls(connect(url), job_timeout=settings.job_timeout_hours * 3600)

    # Anybody

    def ping(self) -> None:
        """Do nothing, if Redis answers."""
        with unavailable():
            self.redis.ping()

    def create(self, job: Job, reservation: Reservation | None = None) -> None:
        """Write a new job down, with the idempotency key that has led to it, and queue it: all of it or nothing."""
        with unavailable(), self.redis.pipeline() as pipe:
            ticket = self._ticket(job.id, job.options.priority, front=False, pipe=pipe)
            pipe.hset(_key(job.id), mapping=cast(Any, to_hash(job)))
            pipe.zadd(f"{PREFIX}jobs", {job.id: job.created_at.timestamp()})
            pipe.sadd(f"{PREFIX}state:{job.state}", job.id)
            pipe.hset(_key(job.id), "ticket", ticket)
            pipe.hset(_key(job.id), "queued_at", int(job.created_at.timestamp()))
            if reservation is not None:
                once.settle(pipe, reservation, job.id)
            pipe.execute()

    def get(self, job_id: str) -> Job:
        """The document of a job."""
        with unavailable():
            raw = self.redis.hgetall(_key(job_id))
        if not raw:
            raise NotFound(f"There is no job {job_id!r}.")
        return from_hash(cast(dict[bytes, bytes], raw))

    def list(self, *, state: JobState | None = None, limit: int = 100, offset: int = 0) -> list[Job]:
        """Jobs, newest first; of one state only, if given."""
        with unavailable():
            ids = [i.decode() for i in cast(Iterable[bytes], self.redis.zrevrange(f"{PREFIX}jobs", 0, -1))]
            if state is not None:
                members = self.ids(state)
                ids = [i for i in ids if i in members]
            with self.redis.pipeline(transaction=False) as pipe:
                for job_id in ids[offset : offset + limit]:
                    pipe.hgetall(_key(job_id))
                return [from_hash(raw) for raw in pipe.execute() if raw]

    def ids(self, *states: JobState) -> set[str]:
        """Ids of the jobs in these states (all, if none is given)."""
        with unavailable():
            keys = [f"{PREFIX}state:{state}" for state in states or tuple(JobState)]
            return {i.decode() for i in cast(Iterable[bytes], self.redis.sunion(keys))}

    def longest_wait(self) -> float:
        """Seconds for which the job that has waited longest has been queued; 0 where none is."""
        queued = sorted(self.ids(JobState.QUEUED))
        with unavailable(), self.redis.pipeline(transaction=False) as pipe:
            for job_id in queued:
                pipe.hget(_key(job_id), "queued_at")
            since = [int(at) for at in pipe.execute() if at is not None]
        return max(0.0, time.time() - min(since)) if since else 0.0

    def counts(self) -> dict[JobState, int]:
        """How many jobs there are in each state."""
        with unavailable(), self.redis.pipeline(transaction=False) as pipe:
            for state in JobState:
                pipe.scard(f"{PREFIX}state:{state}")
            return dict(zip(JobState, pipe.execute(), strict=True))

    def request_cancel(self, job_id: str) -> JobState:
        """Cancel a job: at once where it waits, at the next chunk where it runs. Returns the state it is in now.

        Raises `NotReady` if the job is already done or failed; cancelling twice is fine.
        """
        return self._request(job_id, "cancel", JobState.CANCELLED, (JobState.QUEUED, JobState.PAUSED))

    def request_pause(self, job_id: str) -> JobState:
        """Pause a job: at once where it waits, at the next chunk where it runs.

        Raises `NotReady` if it is over, or is to be cancelled.
        """
        return self._request(job_id, "pause", JobState.PAUSED, (JobState.QUEUED,))

    def resume(self, job_id: str) -> JobState:
        """Queue a paused or failed job again, at the front.

        Raises `NotReady` if it is neither, and `Gone` if the files of a failed one have been removed.
        """
        fields = {"error": None, "finished_at": None, "died_at": "", "died_there": 0}
        outcome, _ = self._apply(job_id, from_=(JobState.PAUSED, JobState.FAILED), to=JobState.QUEUED, fields=fields)
        if outcome == "ok":
            self.enqueue(job_id, front=True)
            return JobState.QUEUED
        if outcome == "gone":
            raise Gone("The job's files have been removed; upload the video again.")
        raise NotReady(f"The job is {outcome}, neither paused nor failed.")

    def enqueue(self, job_id: str, *, front: bool = False) -> None:
        """Write a new ticket for a queued job, and remove the one that it had."""
        with unavailable():
            old, options = cast("list[bytes | None]", self.redis.hmget(_key(job_id), "ticket", "options"))
            if options is None:
                raise NotFound(f"There is no job {job_id!r}.")
            if old is not None:
                tickets.drop(self.redis, old.decode())
            priority = Priority(json.loads(options).get("priority", Priority.NORMAL))
            with self.redis.pipeline() as pipe:
                ticket = self._ticket(job_id, priority, front=front, pipe=pipe)
                pipe.hset(_key(job_id), "ticket", ticket)
                pipe.execute()

    def tidy(self, job_id: str) -> None:
        """Remove the ticket of a job that is over, in case the worker died between the job's end and the ticket's."""
        with unavailable():
            state = cast("bytes | None", self.redis.hget(_key(job_id), "state"))
            if state is not None and JobState(state.decode()).final and self._drop_ticket(job_id):
                self.redis.hdel(_key(job_id), "ticket")

    def give_up_files(self, job_id: str) -> bool:
        """Say that the files of a failed job are about to be removed; False if it is not failed any more."""
        try:
            return self._apply(job_id, from_=(JobState.FAILED,), fields={"files_removed": True})[0] == "ok"
        except NotFound:
            return False

    def forget(self, job_id: str) -> bool:
        """Remove the document of a job that is over; whether there was one."""
        with unavailable():
            ticket = cast("bytes | None", self.redis.hget(_key(job_id), "ticket"))
            forgotten = bool(self._forget(keys=[_key(job_id)], args=[PREFIX, job_id]))
            if forgotten and ticket is not None:
                tickets.drop(self.redis, ticket.decode())
            return forgotten

    # Workers

    def claim(self, job_id: str, worker: str, *, above: int = 0) -> Claim | None:
        """Take a queued job; None if it is not waiting any more. Counts an attempt, and fences off whoever had it.

        The token is larger than `above`: a Redis that comes back from an old copy knows less than the job's files do.
        """
        with unavailable():
            token = int(self.redis.incr(f"{PREFIX}fence"))
            if token <= above:
                token = int(self.redis.incrby(f"{PREFIX}fence", above + 1 - token))
        fields = {"worker": worker, "started_at": datetime.now(UTC), "beat": 0}
        try:
            outcome, _ = self._apply(
                job_id, from_=(JobState.QUEUED,), to=JobState.RUNNING, new_token=token, count="attempt", fields=fields
            )
        except NotFound:
            return None
        return Claim(job_id, token) if outcome == "ok" else None

    def beat(self, claim: Claim, fields: dict[str, Any] | None = None) -> Beat:
        """Say that the worker is alive, and write down `fields` of the document (progress, metrics, …)."""
        try:
            outcome, request = self._apply(
                claim.job_id, from_=(JobState.RUNNING,), token=claim.token, count="beat", fields=fields
            )
        except NotFound:
            return Beat(False, "cancel")
        return Beat(outcome == "ok", request)

    def let_go(self, claim: Claim, state: JobState, fields: dict[str, Any] | None = None) -> JobState | None:
        """End the worker's hold on a job that is now done, failed, cancelled or paused, or that is queued again.

        A queued one goes to the front. Returns the state that the job is in now: a request that has not been heard
        weighs more than pausing or queueing it. None if the job was not the worker's; but cancelled is cancelled,
        whoever has said it first.
        """
        try:
            while True:
                values = {"finished_at": _end(state), **(fields or {})}
                outcome, asked = self._apply(
                    claim.job_id, from_=(JobState.RUNNING,), token=claim.token, to=state, fields=values
                )
                if outcome != "asked":
                    break
                state = _ASKED[asked]
        except NotFound:
            return None
        if outcome == JobState.CANCELLED:
            return JobState.CANCELLED
        if outcome != "ok":
            return None
        if state is JobState.QUEUED:
            self.enqueue(claim.job_id, front=True)
        return state

    def holders(self) -> dict[str, tuple[int, int]]:
        """Of every running job, the token it carries and how many heartbeats it has had."""
        ids = sorted(self.ids(JobState.RUNNING))
        with unavailable(), self.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(_key(job_id), "token", "beat")
            rows = pipe.execute()
        return {i: (int(token), int(beat or 0)) for i, (token, beat) in zip(ids, rows, strict=True) if token}

    def declare_lost(self, job_id: str, token: int, beat: int, *, max_deaths: int) -> JobState | None:
        """Take a running job from a worker that has not been heard of since heartbeat number `beat`.

        It goes to the front of its queue, or fails if `max_deaths` workers in a row have died over it and none has
        brought it further; or, if that had been asked, it is cancelled or paused. Returns its new state, or None if the
        worker was alive after all.
        """
        job = self.get(job_id)
        with unavailable():
            values = cast("list[bytes | None]", self.redis.hmget(_key(job_id), "request", "died_at", "died_there"))
        request, died_at, died_there = ((value or b"").decode() for value in values)
        frames = job.progress.frames_done
        deaths = int(died_there or 0) + 1 if died_at == str(frames) else 1
        to, error = JobState.QUEUED, None
        if deaths >= max_deaths and request != "cancel":
            to, error = JobState.FAILED, _poisonous(job, deaths)
        elif request:
            to = _ASKED[request]
        outcome, _ = self._apply(
            job_id,
            from_=(JobState.RUNNING,),
            token=token,
            beat=beat,
            to=to,
            count="deaths",
            fields={"error": error, "finished_at": _end(to), "died_at": frames, "died_there": deaths},
        )
        if outcome == "asked":  # just now
            return self.declare_lost(job_id, token, beat, max_deaths=max_deaths)
        if outcome != "ok":
            return None
        if to is JobState.QUEUED:
            self.enqueue(job_id, front=True)
        else:
            with unavailable():
                self._drop_ticket(job_id)
        return to

    def without_ticket(self) -> set[str]:
        """Ids of queued jobs that no queue knows of."""
        queued = self.ids(JobState.QUEUED)
        with unavailable():
            return tickets.missing(self.redis, queued)

    # Within

    def _request(self, job_id: str, word: str, to: JobState, at_once: tuple[JobState, ...]) -> JobState:
        outcome, _ = self._apply(job_id, from_=at_once, to=to, fields={"finished_at": _end(to)})
        if outcome == JobState.RUNNING:
            outcome, asked = self._apply(job_id, from_=(JobState.RUNNING,), fields={"request": word})
            if outcome == "ok" and asked != word:
                raise NotReady("The job is being cancelled; it cannot be paused now.")
            if outcome == "ok":
                return JobState.RUNNING
            outcome, _ = self._apply(job_id, from_=at_once, to=to, fields={"finished_at": _end(to)})
        if outcome == "ok":
            with unavailable():
                self._drop_ticket(job_id)
            return to
        if outcome == to:
            return to
        raise NotReady(f"The job is {outcome}; it cannot be {to} now.")

    def _apply(
        self,
        job_id: str,
        *,
        from_: tuple[JobState, ...] = (),
        token: int | None = None,
        beat: int | None = None,
        to: JobState | None = None,
        new_token: int | None = None,
        count: str = "",
        fields: dict[str, Any] | None = None,
    ) -> tuple[str, str]:
        args: list[Any] = [PREFIX, job_id, f",{','.join(from_)}," if from_ else ""]
        args += ["" if value is None else str(value) for value in (token, beat, to, new_token)]
        args.append(count)
        for name, value in (fields or {}).items():
            args += [name, encode(name, value)]
        with unavailable():
            outcome, request = cast(list[bytes], self._transition(keys=[_key(job_id)], args=args))
        if outcome == b"missing":
            raise NotFound(f"There is no job {job_id!r}.")
        return outcome.decode(), request.decode()

    def _ticket(self, job_id: str, priority: Priority, *, front: bool, pipe: Any) -> str:
        number = int(self.redis.incr(f"{PREFIX}tickets"))
        return tickets.push(self.redis, job_id, number, priority, front=front, timeout=self.job_timeout, pipe=pipe)

    def _drop_ticket(self, job_id: str) -> bool:
        ticket = cast("bytes | None", self.redis.hget(_key(job_id), "ticket"))
        if ticket is not None:
            tickets.drop(self.redis, ticket.decode())
        return ticket is not None


def _key(job_id: str) -> str:
    return f"{PREFIX}job:{job_id}"


def _end(state: JobState) -> datetime | None:
    return datetime.now(UTC) if state.final else None


def _poisonous(job: Job, deaths: int) -> BaseModel:
    done, total = job.progress.frames_done, job.progress.frames_total
    return Problem(
        type="/problems/job-failed",
        title="Job failed",
        status=500,
        detail=(
            f"{deaths} workers in a row died over this job, the last one ({job.worker}) in attempt {job.attempt}, all "
            f"after frame {done} of {total if total is not None else 'an unknown number'}. The usual reason is too "
            "little memory: try a smaller chunk, or a smaller video."
        ),
    )
