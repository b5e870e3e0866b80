"""Changes of the jobs in Redis: new jobs, requests of users, and the work of workers.

Every change of state is a `Transition`. Redis checks and applies the transition in a single step. A claim gives the
worker a *fencing token*: a number that grows with each claim. Later changes by that worker apply only while the job
carries the token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self, cast

from redis import Redis

from jobs import idempotency, tickets
from jobs.errors import Gone, JobFailed, NotFound, NotReady, StoreUnavailable
from jobs.idempotency import Reservation
from jobs.keys import FENCE, JOBS, PREFIX, TICKETS, job_key, owner_key, state_key
from jobs.lines import Line, Place
from jobs.schema import Job, JobState, Priority, Problem, Request
from jobs.settings import Settings
from jobs.store.claims import Claim, HeartbeatReply
from jobs.store.connection import connect, unavailable
from jobs.store.hashes import to_hash
from jobs.store.reader import JobReader
from jobs.store.scripts import CHANGED, FORGET, RESTORE, TRANSITION
from jobs.store.transitions import Outcome, Transition, TransitionResult


class JobStore(JobReader):
    """All jobs in one Redis: reading (`JobReader`), and every change.

    Every method raises `StoreUnavailable` if Redis does not answer. Methods with a job id raise `NotFound` for an
    unknown id, unless the docstring states another result.

    Args:
        redis: the client.
        job_timeout: seconds that RQ allows for one job.
    """

    def __init__(self, redis: Redis, *, job_timeout: int = 720 * 3600) -> None:
        super().__init__(redis)
        self.job_timeout = job_timeout
        self._transition = redis.register_script(TRANSITION)
        self._changed = redis.register_script(CHANGED)
        self._forget = redis.register_script(FORGET)
        self._restore = redis.register_script(RESTORE)

    @classmethod
    def from_settings(cls, settings: Settings, redis_url: str | None = None) -> Self:
        """Create the store of the settings, without connecting. `redis_url` overrides the setting."""
        url = redis_url or settings.redis_address
        if url is None:
            raise StoreUnavailable("No Redis is configured. Set SKIPVSR_REDIS_URL, or use `skipvsr up`.")
        return cls(connect(url), job_timeout=settings.job_timeout_hours * 3600)

    # Documents

    def create(self, job: Job, reservation: Reservation | None = None) -> None:
        """Store and queue a new job, and settle its idempotency key, in one transaction."""
        with unavailable(), self.redis.pipeline() as pipe:
            ticket = self._push_ticket(job.id, Line(job.options.priority, job.owner), Place.BACK, pipe)
            pipe.hset(job_key(job.id), mapping=cast(Any, to_hash(job)))
            pipe.zadd(JOBS, {job.id: job.created_at.timestamp()})
            pipe.sadd(state_key(job.state), job.id)
            if job.owner:
                pipe.sadd(owner_key(job.owner), job.id)
            pipe.hset(job_key(job.id), "ticket", ticket)
            pipe.hset(job_key(job.id), "queued_at", int(job.created_at.timestamp()))
            if reservation is not None:
                idempotency.settle(pipe, reservation, job.id)
            self._changed(keys=[job_key(job.id)], args=[PREFIX, job.id], client=pipe)
            pipe.execute()

    def restore(self, job: Job) -> bool:
        """Store a job lost by Redis, and queue the job if the job was waiting; return False if Redis knows the job."""
        pairs = [text for pair in to_hash(job).items() for text in pair]
        with unavailable():
            head = [PREFIX, job.id, str(job.created_at.timestamp()), str(job.state)]
            stored = bool(self._restore(keys=[job_key(job.id)], args=head + pairs))
        if stored and job.state is JobState.QUEUED:
            self.enqueue(job.id)
        return stored

    def mark_files_removed(self, job_id: str) -> bool:
        """Record that the files of a failed job are about to be removed; return False for a job that is not failed."""
        transition = Transition(from_states=(JobState.FAILED,), fields={"files_removed": True})
        try:
            return self._apply(job_id, transition).applied
        except NotFound:
            return False

    def forget(self, job_id: str) -> bool:
        """Remove the document of a finished job; return False if no finished job has this id."""
        with unavailable():
            ticket = self._ticket(job_id)
            forgotten = bool(self._forget(keys=[job_key(job_id)], args=[PREFIX, job_id]))
            if forgotten and ticket is not None:
                tickets.drop(self.redis, *ticket)
            return forgotten

    # Requests of users

    def request_cancel(self, job_id: str) -> JobState:
        """Cancel a waiting job at once and a running job within a frame's time; return the current state.

        A second request to cancel succeeds. Raises `NotReady` if the job is done or failed.
        """
        return self._request(job_id, Request.CANCEL, (JobState.QUEUED, JobState.PAUSED))

    def request_pause(self, job_id: str) -> JobState:
        """Pause a waiting job at once and a running job within a frame's time; return the current state.

        Raises `NotReady` if the job is finished, or a user has requested to cancel the job.
        """
        return self._request(job_id, Request.PAUSE, (JobState.QUEUED,))

    def resume(self, job_id: str) -> JobState:
        """Queue a paused or failed job before all other jobs of its API key and priority.

        Raises `NotReady` in any other state, and `Gone` if the files of the failed job are removed.
        """
        result = self._apply(
            job_id,
            Transition(
                from_states=(JobState.PAUSED, JobState.FAILED),
                to=JobState.QUEUED,
                fields={"error": None, "finished_at": None, "died_at": "", "died_there": 0},
            ),
        )
        if result.applied:
            self.enqueue(job_id, Place.FRONT)
            return JobState.QUEUED
        if result.outcome is Outcome.FILES_REMOVED:
            raise Gone("The job's files have been removed; upload the video again.")
        raise NotReady(f"The job is {result.state}, neither paused nor failed.")

    # Work of workers

    def claim(self, job_id: str, worker: str, *, above: int = 0) -> Claim | None:
        """Claim a queued job and count an attempt; return None if the job is unknown or not queued.

        The new token is larger than `above`. A Redis restored from an old copy may hold a smaller token than the job's
        files.
        """
        with unavailable():
            token = int(self.redis.incr(FENCE))
            if token <= above:
                token = int(self.redis.incrby(FENCE, above + 1 - token))
        transition = Transition(
            from_states=(JobState.QUEUED,),
            to=JobState.RUNNING,
            new_token=token,
            increment="attempt",
            fields={"worker": worker, "started_at": datetime.now(UTC), "beat": 0},
        )
        try:
            return Claim(job_id, token) if self._apply(job_id, transition).applied else None
        except NotFound:
            return None

    def heartbeat(self, claim: Claim, fields: Mapping[str, Any] | None = None) -> HeartbeatReply:
        """Count a heartbeat of the worker, and store `fields` of the document (progress, metrics, …).

        The reply for an unknown job is the same as for a job of another worker: Redis may have lost the job, and the
        files stay.
        """
        transition = Transition(
            from_states=(JobState.RUNNING,), token=claim.token, increment="beat", fields=fields or {}
        )
        try:
            result = self._apply(claim.job_id, transition)
        except NotFound:
            return HeartbeatReply(False, None)
        return HeartbeatReply(result.applied, result.request)

    def release(self, claim: Claim, state: JobState, fields: Mapping[str, Any] | None = None) -> JobState | None:
        """End a worker's claim with a new state: done, failed, cancelled, paused, or queued before all other jobs.

        A user's request that the worker has not seen overrides the states paused and queued.

        Returns:
            The job's new state; `CANCELLED` also if the job was cancelled before. None if another worker has the job or
            the job is unknown.
        """
        try:
            while True:
                result = self._apply(
                    claim.job_id,
                    Transition(
                        from_states=(JobState.RUNNING,),
                        token=claim.token,
                        to=state,
                        fields={"finished_at": _finish_time(state), **(fields or {})},
                    ),
                )
                if result.outcome is not Outcome.REQUEST_PENDING or result.request is None:
                    break
                state = result.request.state
        except NotFound:
            return None
        if result.state is JobState.CANCELLED:
            return JobState.CANCELLED
        if not result.applied:
            return None
        if state is JobState.QUEUED:
            self.enqueue(claim.job_id, Place.FIRST)
        return state

    def hand_back(self, claim: Claim, fields: Mapping[str, Any], warning: str, *, most: int) -> JobState | None:
        """End the claim of a worker whose device failed; the result is that of `release`.

        The job is queued before all other jobs, with a warning, and no death is counted. But the job fails if `most`
        workers in a row ended at the same frame, by a failed device or by death.
        """
        try:
            job = self.get(claim.job_id)
        except NotFound:
            return None
        job = job.model_copy(update={name: fields[name] for name in ("progress", "warnings") if name in fields})
        there = self._ends_there(job)
        state, error = JobState.QUEUED, None
        if there["died_there"] >= most:
            state, error = JobState.FAILED, _repeated_failures(job, there["died_there"])
        warnings = list(dict.fromkeys([*job.warnings, warning]))
        return self.release(claim, state, {**fields, **there, "warnings": warnings, "error": error})

    def declare_lost(self, job_id: str, token: int, beat: int, *, max_deaths: int) -> JobState | None:
        """Take a running job from a worker without a heartbeat since number `beat`; return the job's new state.

        The job is queued before all other jobs, or a pending request is carried out. The job fails if `max_deaths`
        workers in a row died at the same frame. Returns None if the worker sent another heartbeat.
        """
        job = self.get(job_id)
        with unavailable():
            request = cast("bytes | None", self.redis.hget(job_key(job_id), "request"))
        there = self._ends_there(job)
        to, error = Request(request.decode()).state if request else JobState.QUEUED, None
        if there["died_there"] >= max_deaths and to is not JobState.CANCELLED:
            to, error = JobState.FAILED, _repeated_deaths(job, there["died_there"])
        result = self._apply(
            job_id,
            Transition(
                from_states=(JobState.RUNNING,),
                token=token,
                beat=beat,
                to=to,
                increment="deaths",
                fields={
                    "error": error,
                    "finished_at": _finish_time(to),
                    **there,
                    "progress": job.progress.at_checkpoint(),
                },
            ),
        )
        if result.outcome is Outcome.REQUEST_PENDING:  # a new request
            return self.declare_lost(job_id, token, beat, max_deaths=max_deaths)
        if not result.applied:
            return None
        if to is JobState.QUEUED:
            self.enqueue(job_id, Place.FIRST)
        else:
            self._drop_ticket(job_id)
        return to

    def _ends_there(self, job: Job) -> dict[str, int]:
        """Fields that count one more end of a worker at the job's frame: all ends in a row there."""
        with unavailable():
            values = cast("list[bytes | None]", self.redis.hmget(job_key(job.id), "died_at", "died_there"))
        died_at, died_there = ((value or b"").decode() for value in values)
        frames = job.progress.frames_saved
        return {"died_at": frames, "died_there": int(died_there or 0) + 1 if died_at == str(frames) else 1}

    # Tickets

    def enqueue(self, job_id: str, place: Place = Place.BACK) -> None:
        """Replace the ticket of a queued job by a new one."""
        with unavailable():
            line, old = self._line_and_ticket(job_id)
            if line is None:
                raise NotFound.job(job_id)
            if old is not None:
                tickets.drop(self.redis, old, line)
            with self.redis.pipeline() as pipe:
                ticket = self._push_ticket(job_id, line, place, pipe)
                pipe.hset(job_key(job_id), "ticket", ticket)
                pipe.execute()

    def drop_stale_ticket(self, job_id: str) -> None:
        """Remove the ticket of a finished job; a worker that dies between both steps leaves the ticket."""
        with unavailable():
            state = cast("bytes | None", self.redis.hget(job_key(job_id), "state"))
            if state is not None and JobState(state.decode()).final and self._drop_ticket(job_id):
                self.redis.hdel(job_key(job_id), "ticket")

    # Internals

    def _request(self, job_id: str, request: Request, waiting: tuple[JobState, ...]) -> JobState:
        """Carry a request out at once in the `waiting` states, or leave the request for the worker."""
        to = request.state
        at_once = Transition(from_states=waiting, to=to, fields={"finished_at": _finish_time(to)})
        result = self._apply(job_id, at_once)
        if result.state is JobState.RUNNING:
            note = Transition(from_states=(JobState.RUNNING,), fields={"request": request})
            noted = self._apply(job_id, note)
            if noted.applied and noted.request is not request:
                raise NotReady("The job is being cancelled; it cannot be paused now.")
            if noted.applied:
                return JobState.RUNNING
            result = self._apply(job_id, at_once)
        if result.applied:
            self._drop_ticket(job_id)
            return to
        if result.state is to:
            return to
        raise NotReady(f"The job is {result.state}; it cannot be {to} now.")

    def _apply(self, job_id: str, transition: Transition) -> TransitionResult:
        with unavailable():
            answer = cast(list[bytes], self._transition(keys=[job_key(job_id)], args=transition.arguments(job_id)))
        result = TransitionResult.parse(*answer)
        if result.outcome is Outcome.MISSING:
            raise NotFound.job(job_id)
        return result

    def _push_ticket(self, job_id: str, line: Line, place: Place, pipe: Any) -> str:
        number = int(self.redis.incr(TICKETS))
        return tickets.push(self.redis, job_id, number, line, place=place, timeout=self.job_timeout, pipe=pipe)

    def _drop_ticket(self, job_id: str) -> bool:
        with unavailable():
            ticket = self._ticket(job_id)
            if ticket is not None:
                tickets.drop(self.redis, *ticket)
            return ticket is not None

    def _ticket(self, job_id: str) -> tuple[str, Line] | None:
        """The current ticket of a job, and its line; None if there is none."""
        line, ticket = self._line_and_ticket(job_id)
        return None if line is None or ticket is None else (ticket, line)

    def _line_and_ticket(self, job_id: str) -> tuple[Line | None, str | None]:
        """The line of a job, None if the job is unknown; and its ticket, None if it has none."""
        fields = ("options", "owner", "ticket")
        options, owner, ticket = cast("list[bytes | None]", self.redis.hmget(job_key(job_id), *fields))
        if options is None:
            return None, None
        priority = Priority(json.loads(options).get("priority", Priority.NORMAL))
        return Line(priority, (owner or b"").decode()), ticket.decode() if ticket else None


def _finish_time(state: JobState) -> datetime | None:
    return datetime.now(UTC) if state.final else None


def _repeated_failures(job: Job, count: int) -> Problem:
    return Problem.from_error(
        JobFailed(
            f"The compute devices of {count} workers in a row failed after frame {job.progress.frames_saved} of this "
            f"video, the last one of {job.worker}. The logs of the workers name the error. Another model, another "
            "routing or SKIPVSR_DEVICE=cpu may help."
        )
    )


def _repeated_deaths(job: Job, deaths: int) -> Problem:
    done, total = job.progress.frames_saved, job.progress.frames_total or "an unknown number"
    return Problem.from_error(
        JobFailed(
            f"{deaths} workers in a row died while processing this job, the last one ({job.worker}) in attempt "
            f"{job.attempt}, all after frame {done} of {total}. The usual reason is too little memory: try a smaller "
            "chunk, or a smaller video."
        )
    )
