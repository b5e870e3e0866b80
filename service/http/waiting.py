"""`Prefer: wait=N` (RFC 7240) and `?wait=N`: the answer comes when a job is final or paused, or after N seconds.

A wait takes the place of an event stream. Without a free place, the answer comes at once, as the RFC allows.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Final

from fastapi import Depends, Header, Query, Request

from jobs.errors import StoreUnavailable, TooManyStreams
from jobs.schema import Job, JobState
from service.http.auth import CallerDep
from service.http.dependencies import StreamsDep
from service.http.middleware import HEADERS
from service.http.streams import STREAM, Stream

MOST_SECONDS: Final = 60
_WAIT: Final = re.compile(r'wait\s*=\s*"?(\d{1,9})"?', re.IGNORECASE)
_LOOK_SECONDS: Final = 1.0
"""Time between two looks whether the client still waits."""


def _wished(
    prefer: Annotated[
        list[str] | None,
        Header(
            description="`wait=N`: answer when the job is final or paused, or after N seconds (at most "
            f"{MOST_SECONDS}). `Preference-Applied` confirms the wait."
        ),
    ] = None,
    wait: Annotated[
        int | None, Query(ge=0, le=MOST_SECONDS, description="Seconds to wait, instead of the header `Prefer`.")
    ] = None,
) -> int:
    """Seconds that the client wants to wait; 0: not at all."""
    if wait is not None:
        return wait
    parts = (part.partition(";")[0].strip() for line in prefer or () for part in line.split(","))
    found = next((match for part in parts if (match := _WAIT.fullmatch(part))), None)
    return min(int(found[1]), MOST_SECONDS) if found else 0


class Waiting:
    """The wish of a request to wait."""

    def __init__(
        self,
        request: Request,
        streams: StreamsDep,
        caller: CallerDep,
        seconds: Annotated[int, Depends(_wished)],
    ) -> None:
        self._request, self._streams, self._caller, self._seconds = request, streams, caller, seconds

    async def settled(self, job: Job) -> Job:
        """Wait until a job of the caller is final or paused; return its last known document."""
        return await self.job(job.id) or job

    async def job(self, job_id: str) -> Job | None:
        """Wait for a job; return its last known document, or None without a wait."""
        if not self._seconds:
            return None
        try:
            stream = self._streams.open(self._caller, job_id)
        except TooManyStreams:
            return None
        try:
            job = await self._streams.job(job_id)
            if job is None or not self._caller.may_see(job.owner):
                return None
            setattr(self._request.state, HEADERS, {"Preference-Applied": f"wait={self._seconds}"})
            setattr(self._request.state, STREAM, stream)
            return await _settled(job, self._seconds, self._request, stream)
        except StoreUnavailable:
            return None  # the route says so
        finally:
            self._streams.close(stream)
            setattr(self._request.state, STREAM, None)


WaitingDep = Annotated[Waiting, Depends()]


async def _settled(job: Job, seconds: int, request: Request, stream: Stream) -> Job:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (job.state.final or job.state is JobState.PAUSED or stream.ended):
        left = deadline - loop.time()
        if left <= 0 or await request.is_disconnected():
            break
        await stream.wait(min(left, _LOOK_SECONDS))
        for update in stream.take():
            if update.job is None:
                return job
            job = update.job
    return job


async def _wait_for_job(job_id: str, waiting: WaitingDep) -> None:
    await waiting.job(job_id)


WAITS: Final = Depends(_wait_for_job)
"""Dependency of a route with a `job_id`: the route runs when the wait is over."""


def retry_after(job: Job) -> str:
    """Seconds after which to ask for a job again: a tenth of the remaining time, between 1 and 30."""
    left = job.progress.eta_seconds
    return str(round(min(30.0, max(1.0, left / 10)))) if left is not None else "2"
