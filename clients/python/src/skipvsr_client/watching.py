"""Watching jobs: server-sent events, or polling where the server sends none."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from httpx_sse import SSEError

from skipvsr_client.activity import OnProgress, away, ignore
from skipvsr_client.documents import Job, build
from skipvsr_client.errors import ConnectionFailed, NotFound, Refused
from skipvsr_client.server import Patience, Server
from skipvsr_client.transport import Call

_POLL_SECONDS: Final = 0.5
_NO_EVENTS: Final = (404, 405, 406, 501)
"""Statuses of a server without events; a kind of error means that the job is unknown."""
_NO_MORE_EVENTS: Final = (429, 503)
"""Statuses of a server with too many event streams."""


class NoEvents(Exception):
    """The server sends no events: never, or not at present."""

    def __init__(self, *, never: bool) -> None:
        super().__init__()
        self.never = never


class Watching:
    """Watches jobs of one server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._events = True
        """Whether the server sends events, or has not been asked."""

    async def watch(
        self, job_id: str, on_progress: OnProgress = ignore, *, end: float | None = None
    ) -> AsyncGenerator[Job, None]:
        """Yield the job now and after each change, until it is done, failed or cancelled.

        Raises TimeoutError at the time `end` of the monotonic clock. The server is then asked, because no event comes
        without a change.
        """
        shown: Job | None = None
        async with aclosing(self._documents(job_id, self._server.patience(away(on_progress)), end)) as jobs:
            async for job in jobs:
                if job != shown:
                    shown = job
                    yield job
                if job.final:
                    return

    async def _documents(self, job_id: str, patience: Patience, end: float | None) -> AsyncGenerator[Job, None]:
        """Yield documents of a job, also without a change, by events where possible."""
        if self._events and end is None:
            try:
                async with aclosing(self._by_events(job_id, patience)) as jobs:
                    async for job in jobs:
                        yield job
            except NoEvents as error:
                self._events = not error.never
        async with aclosing(self._by_polling(job_id, patience, end)) as jobs:
            async for job in jobs:
                yield job

    async def _by_events(self, job_id: str, patience: Patience) -> AsyncGenerator[Job, None]:
        last: list[str] = []
        while True:
            try:
                async with aclosing(self._connection(job_id, last, patience)) as jobs:
                    async for job in jobs:
                        yield job
                await patience.wait(ConnectionFailed(f"{self._server.url} ended the events of job {job_id}: try again"))
            except ConnectionFailed as error:
                await patience.wait(error)
            except Refused as error:
                never = error.status in _NO_EVENTS and (error.kind is None or error.status != _NO_EVENTS[0])
                if not never and error.status not in _NO_MORE_EVENTS:
                    raise
                raise NoEvents(never=never) from error

    async def _connection(self, job_id: str, last: list[str], patience: Patience) -> AsyncGenerator[Job, None]:
        """Yield the jobs of one connection. `last` holds the id of the last event."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last[0]} if last else {})}
        call = Call("GET", f"/jobs/{job_id}/events", headers=headers)
        async with self._server.opened(call, patience) as response:
            try:
                async for event in self._server.transport.events(response):
                    last[:] = [event.id] if event.id else last
                    patience.succeeded()
                    job = _job(event.event, event.data, job_id)
                    if job is not None:
                        yield job
            except SSEError as error:  # the answer is of another type
                raise NoEvents(never=True) from error

    async def _by_polling(self, job_id: str, patience: Patience, end: float | None) -> AsyncGenerator[Job, None]:
        call = Call("GET", f"/jobs/{job_id}")
        while True:
            job = build(Job, await self._server.json(call, repeat=True, patience=patience))
            patience.succeeded()
            yield job
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"job {job_id} is still {job.state}; the job continues")
            await self._server.transport.sleep(_POLL_SECONDS)


def _job(event: str, data: str, job_id: str) -> Job | None:
    """The job in an event; None for other events. Raises NotFound if the job was removed."""
    if event == "removed":
        raise NotFound(f"job {job_id} has been removed", status=404, kind="not-found", title="Not found")
    return build(Job, json.loads(data)) if event == "job" else None
