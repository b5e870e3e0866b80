"""Questions about the jobs in Redis. Nothing here changes a job."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import cast

from redis import Redis

from jobs import lines
from jobs.errors import NotFound
from jobs.keys import job_key, state_key
from jobs.schema import Job, JobState, Priority, Request
from jobs.store import listing
from jobs.store.claims import HeartbeatCount
from jobs.store.connection import unavailable
from jobs.store.hashes import from_hash
from jobs.store.listing import Page, Selection


class JobReader:
    """Reads the jobs of one Redis. Every method raises `StoreUnavailable` if Redis does not answer."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def ping(self) -> None:
        """Check that Redis answers."""
        with unavailable():
            self.redis.ping()

    def get(self, job_id: str) -> Job:
        """Document of a job."""
        with unavailable():
            raw = self.redis.hgetall(job_key(job_id))
        if not raw:
            raise NotFound.job(job_id)
        return from_hash(cast(dict[bytes, bytes], raw))

    def knows(self, job_id: str) -> bool:
        """Whether a job has this id."""
        with unavailable():
            return bool(self.redis.exists(job_key(job_id)))

    def list(
        self, *, state: JobState | None = None, owner: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[Job]:
        """Jobs from the newest to the oldest, optionally filtered by state and API key."""
        states = () if state is None else (state,)
        return self.page(Selection(states, owner), limit=limit, offset=offset).jobs

    def page(self, selection: Selection, *, limit: int = 100, offset: int = 0) -> Page:
        """A part of the list of jobs, with the numbers of jobs."""
        with unavailable():
            return listing.page(self.redis, selection, limit=limit, offset=offset)

    def ids(self, *states: JobState) -> set[str]:
        """Ids of the jobs in these states, or of all jobs."""
        with unavailable():
            keys = [state_key(state) for state in states or tuple(JobState)]
            return {i.decode() for i in cast(Iterable[bytes], self.redis.sunion(keys))}

    def counts(self) -> dict[JobState, int]:
        """Number of jobs in each state."""
        with unavailable():
            return listing.count(self.redis)

    def max_memory(self) -> int:
        """Maximum memory of Redis in bytes (`maxmemory`); 0: no maximum."""
        with unavailable():
            return int(self.redis.info("memory").get("maxmemory", 0))

    def longest_wait(self, owner: str | None = None) -> float:
        """Seconds since the longest waiting job of all API keys, or of one, was queued; 0 if no job is queued."""
        with unavailable():
            since = lines.oldest(self.redis, owner)
        return 0.0 if since is None else max(0.0, time.time() - since)

    def depths(self) -> dict[Priority, int]:
        """Number of waiting jobs of each priority."""
        with unavailable():
            return lines.depths(self.redis)

    def request_to(self, job_id: str) -> Request | None:
        """A user's request to a running job, if one is pending; None also for an unknown job."""
        with unavailable():
            request = cast("bytes | None", self.redis.hget(job_key(job_id), "request"))
        return Request(request.decode()) if request else None

    def heartbeat_counts(self) -> dict[str, HeartbeatCount]:
        """Token and number of heartbeats of every running job."""
        ids = sorted(self.ids(JobState.RUNNING))
        with unavailable(), self.redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(job_key(job_id), "token", "beat")
            rows = pipe.execute()
        return {
            job_id: HeartbeatCount(int(token), int(beats or 0))
            for job_id, (token, beats) in zip(ids, rows, strict=True)
            if token
        }

    def without_ticket(self) -> set[str]:
        """Ids of queued jobs without a ticket in a line."""
        with unavailable():
            return set(lines.owed(self.redis, state_key(JobState.QUEUED)))
