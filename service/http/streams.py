"""Event streams: a single subscription to Redis for each process, and its changes for every client.

Each job's document is read once for all streams, at most four times a second. A stream holds only the latest event of
each job: a slow client costs little memory. `Connection` drops clients that read nothing at all.

The `id` of an event is a change number: the client has seen every change up to the number. A client that reconnects
with the number gets everything newer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from fastapi.concurrency import run_in_threadpool

from jobs.errors import SkipVsrError, StoreUnavailable, TooManyStreams
from jobs.schema import Job, JobState, Problem
from jobs.settings import Settings
from jobs.store.changes import Change, Changes, Document
from service.callers import Caller
from service.http.responses import JobDocument
from service.tasks import end

log = logging.getLogger(__name__)

STREAM: Final = "stream"
"""Name of the request's state that holds the request's `Stream`, for `service.http.connections`."""
INTERVAL_SECONDS: Final = 0.25
"""Least time between two events of one job."""
KEEP_ALIVE_SECONDS: Final = 15.0
_CONFIRM_SECONDS: Final = 2.0
"""Time between two checks whether the keys of open streams are still valid."""
_RECONNECT_SECONDS: Final = 1.0
_PLACES_SECONDS: Final = 2.5
"""Time until the places in the queue are told again after a job has moved; `Estimates` reads them every two seconds."""
_LAST: Final = 2**63
"""Number of a removal: nothing follows."""
_BATCH: Final = 100
"""Documents read at once for a new stream."""


class Update:
    """The current document of a job, or its removal. Rendered once for all streams."""

    def __init__(self, job_id: str, document: Document | None) -> None:
        self.job_id = job_id
        self.job = document.job if document else None
        self.number = document.number if document else _LAST

    @cached_property
    def text(self) -> bytes:
        """The event without its id."""
        if self.job is None:
            return b'event: removed\ndata: {"id":"%b"}\n' % self.job_id.encode()
        return b"event: job\ndata: %b\n" % JobDocument.of(self.job).model_dump_json().encode()


class Stream:
    """The pending updates of a client."""

    def __init__(self, caller: Caller, job_id: str | None) -> None:
        self.caller, self.job_id = caller, job_id
        self.ended = False
        self.available = True
        """Whether Redis answers."""
        self._pending: dict[str, tuple[int, Update]] = {}
        """The latest update of each job, with the number of its first change that was not sent."""
        self._shown: dict[str, int] = {}
        """Numbers of the documents with which the stream began."""
        self._wake = asyncio.Event()

    def wants(self, job_id: str, owner: str | None) -> bool:
        """Whether the client may get events of a job. `owner` is None if unknown."""
        if self.job_id is not None and job_id != self.job_id:
            return False
        return owner is None or self.caller.may_see(owner)

    def put(self, update: Update, number: int) -> None:
        """Replace the job's pending update, unless the client has seen a newer one."""
        if update.number < self._shown.pop(update.job_id, 0):
            return
        first = self._pending[update.job_id][0] if update.job_id in self._pending else number
        self._pending[update.job_id] = first, update
        self._wake.set()

    def show(self, update: Update) -> None:
        """Note an update with which the stream begins; updates that were read before are pointless."""
        self._shown[update.job_id] = update.number
        if update.job_id in self._pending and self._pending[update.job_id][1].number < update.number:
            del self._pending[update.job_id]

    def tell(self, *, available: bool) -> None:
        """Tell the client whether Redis answers."""
        if self.available != available:
            self.available = available
            self._wake.set()

    def end(self) -> None:
        """End the stream after the event that is being sent."""
        self.ended = True
        self._wake.set()

    async def wait(self, seconds: float) -> bool:
        """Wait for news or the end; return False after `seconds` without."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
        woken = self._wake.is_set()
        self._wake.clear()
        return woken

    def take(self) -> Iterator[Update]:
        """Take the pending updates, one by one."""
        while self._pending and not self.ended:
            job_id = next(iter(self._pending))
            yield self._pending.pop(job_id)[1]

    def first_pending(self) -> list[int]:
        """Numbers of the first changes that were not sent."""
        return [number for number, _ in self._pending.values()]


@dataclass
class _Dirty:
    """A job with changes that no stream has got yet."""

    number: int
    """Number of the first of these changes."""
    owner: str | None
    removed: bool


class Streams:
    """All event streams of this process.

    Args:
        changes: the changes of jobs.
        settings: with the limits.
        announced: completes documents for callers, for example with their places in the queue.
    """

    def __init__(self, changes: Changes, settings: Settings, announced: Callable[[Sequence[Job]], list[Job]]) -> None:
        self._changes, self._announced = changes, announced
        self._most, self._most_of_key = settings.http_max_streams, settings.http_max_key_streams
        self._streams: set[Stream] = set()
        self._dirty: dict[str, _Dirty] = {}
        self._sending: dict[str, _Dirty] = {}
        self._sent_at: dict[str, float] = {}
        self._queued: set[str] = set()
        """Jobs that clients have seen in the queue."""
        self._places: asyncio.TimerHandle | None = None
        self._seen = 0
        self._available = True
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._streams)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Receive changes during the block."""
        tasks = [asyncio.create_task(act()) for act in (self._listen, self._flush, self._confirm)]
        try:
            yield
        finally:
            for stream in self._streams:
                stream.end()
            if self._places is not None:
                self._places.cancel()
            await end(tasks)
            await self._changes.close()

    def open(self, caller: Caller, job_id: str | None = None) -> Stream:
        """Open a stream of one job, or of all jobs of the caller; `close` must follow. Raises TooManyStreams."""
        if len(self._streams) >= self._most:
            raise TooManyStreams(
                f"the server has {self._most} event streams (SKIPVSR_HTTP_MAX_STREAMS); try again later"
            )
        own = sum(stream.caller.key_id == caller.key_id for stream in self._streams)
        if caller.key_id and own >= self._most_of_key:
            raise TooManyStreams(
                f"this API key has {self._most_of_key} event streams (SKIPVSR_HTTP_MAX_KEY_STREAMS); close one of them"
            )
        stream = Stream(caller, job_id)
        stream.available = self._available
        self._streams.add(stream)
        return stream

    def close(self, stream: Stream) -> None:
        """Forget a stream. Closing twice is harmless."""
        self._streams.discard(stream)

    async def events(self, stream: Stream, last_id: int | None) -> AsyncIterator[bytes]:
        """Prepare a stream's text: first the current state, then every change.

        Args:
            stream: an open stream.
            last_id: number of the last change that the client knows.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        start = await self._changes.last()
        known = None if last_id is None or last_id > start else last_id  # a larger number is another Redis's
        first = await self._first(stream, known)
        return self._text(stream, first, start)

    async def job(self, job_id: str) -> Job | None:
        """The current document of a job. Raises StoreUnavailable."""
        found = (await self._documents([job_id])).get(job_id)
        return found.job if found else None

    async def _documents(self, job_ids: Iterable[str]) -> dict[str, Document]:
        """Documents of the jobs, in the form for callers, without jobs that do not exist."""
        found = await self._changes.read(job_ids)
        jobs = await run_in_threadpool(self._announced, [document.job for document in found.values()])
        self._queued -= found.keys()
        self._queued |= {job.id for job in jobs if job.state is JobState.QUEUED}
        return {job.id: Document(job, found[job.id].number) for job in jobs}

    # The text of a stream

    async def _first(self, stream: Stream, last_id: int | None) -> list[str | Update]:
        """Ids of the jobs whose documents a new client needs, and removals."""
        if stream.job_id is not None:
            return [stream.job_id]
        owner = None if stream.caller.admin else stream.caller.key_id
        if last_id is None:
            return list(await self._changes.active(owner))
        return [
            Update(change.job_id, None) if change.removed else change.job_id
            for change in await self._changes.since(last_id, owner)
            if stream.wants(change.job_id, change.owner if change.removed else None)
        ]

    async def _text(self, stream: Stream, first: list[str | Update], start: int) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        for place in range(0, len(first), _BATCH):
            try:
                updates = await self._read(stream, first[place : place + _BATCH])
            except StoreUnavailable:
                return  # the client reconnects, and asks for the same again
            for update in updates:
                stream.show(update)
                yield update.text + b"\n"
        yield b"id: %d\n\n" % start
        async for text in self._news(stream):
            yield text

    async def _read(self, stream: Stream, first: Sequence[str | Update]) -> list[Update]:
        found = await self._documents(item for item in first if isinstance(item, str))
        updates = []
        for item in first:
            update = Update(item, found.get(item)) if isinstance(item, str) else item
            gone = update.job is None and (update is item or stream.job_id is not None)
            if gone or (update.job is not None and stream.wants(update.job_id, update.job.owner)):
                updates.append(update)
        return updates

    async def _news(self, stream: Stream) -> AsyncIterator[bytes]:
        available = True
        while not stream.ended:
            if stream.available != available:
                available = stream.available
                yield b": Redis answers again\n\n" if available else _unavailable()
            for update in stream.take():
                yield update.text + b"id: %d\n\n" % self._known_to(stream)
                if update.job is None and stream.job_id is not None:
                    return
            if not await stream.wait(KEEP_ALIVE_SECONDS):
                yield b": keep-alive\n\n"

    def _known_to(self, stream: Stream) -> int:
        """The largest number up to which a client has got all changes."""
        waiting = [*self._dirty.values(), *self._sending.values()]
        return min([self._seen + 1, *(dirty.number for dirty in waiting), *stream.first_pending()]) - 1

    # The process's subscription

    async def _listen(self) -> None:
        while True:
            try:
                async with self._changes.subscribed() as changes:
                    await self._catch_up()
                    self._tell(available=True)
                    async for change in changes:
                        self._note(change)
            except StoreUnavailable as error:
                level = logging.WARNING if self._available else logging.DEBUG  # one line for each loss
                log.log(level, "event streams wait for Redis: %s", error)
            except Exception:  # one broken message must not end all streams for good
                log.exception("event streams failed; trying again")
            self._tell(available=False)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _catch_up(self) -> None:
        """Mark all jobs changed while Redis was away, and all watched jobs, as changed."""
        last = await self._changes.last()
        for change in await self._changes.since(self._seen) if self._seen else ():
            self._note(change)
        for job_id in {stream.job_id for stream in self._streams if stream.job_id is not None}:
            self._note(Change(job_id, None, max(self._seen, last), removed=False))
        self._seen = max(self._seen, last)

    def _tell(self, *, available: bool) -> None:
        self._available = available
        for stream in self._streams:
            stream.tell(available=available)

    def _note(self, change: Change) -> None:
        self._seen = max(self._seen, change.number)
        if change.moved:
            self._queued.discard(change.job_id)  # the next document tells
        if change.moved and self._places is None and self._queued:
            self._places = asyncio.get_running_loop().call_later(_PLACES_SECONDS, self._renew_places)
        if not any(stream.wants(change.job_id, change.owner) for stream in self._streams):
            return
        known = self._dirty.setdefault(change.job_id, _Dirty(change.number, change.owner, change.removed))
        known.removed = change.removed
        self._wake.set()

    def _renew_places(self) -> None:
        """Take waiting jobs for changed: other jobs have moved in the queue."""
        self._places = None
        for job_id in self._queued:
            self._note(Change(job_id, None, self._seen, removed=False, moved=False))

    async def _flush(self) -> None:
        """Send the changed jobs' documents, each at most every `INTERVAL_SECONDS`."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            self._sent_at = {i: at for i, at in self._sent_at.items() if at + INTERVAL_SECONDS > now}
            due = [job_id for job_id in self._dirty if job_id not in self._sent_at]
            if due:
                await self._send_safely(due[:_BATCH])
                continue
            next_due = min((self._sent_at[i] for i in self._dirty), default=None)
            self._wake.clear()
            with suppress(TimeoutError):
                wait = None if next_due is None else max(0.0, next_due + INTERVAL_SECONDS - now)
                await asyncio.wait_for(self._wake.wait(), wait)

    async def _send_safely(self, job_ids: list[str]) -> None:
        """Send jobs' documents; without an answer of Redis, later."""
        self._sending = {job_id: self._dirty.pop(job_id) for job_id in job_ids}
        try:
            await self._send()
        except StoreUnavailable:
            for job_id, dirty in self._sending.items():
                newer = self._dirty.get(job_id, dirty)
                self._dirty[job_id] = _Dirty(dirty.number, dirty.owner, newer.removed)
            await asyncio.sleep(_RECONNECT_SECONDS)
        except Exception:  # one broken document must not end all streams
            log.exception("event streams cannot show the jobs %s", ", ".join(job_ids))
        finally:
            self._sending = {}

    async def _send(self) -> None:
        found = await self._documents(i for i, dirty in self._sending.items() if not dirty.removed)
        now = asyncio.get_running_loop().time()
        for job_id, dirty in self._sending.items():
            update = Update(job_id, found.get(job_id))
            owner = update.job.owner if update.job else dirty.owner
            for stream in self._streams:
                if stream.wants(job_id, owner) and (owner is not None or stream.job_id is not None):
                    stream.put(update, dirty.number)
            self._sent_at[job_id] = now

    async def _confirm(self) -> None:
        """End the streams of keys that are revoked or have expired."""
        while True:
            await asyncio.sleep(_CONFIRM_SECONDS)
            for stream in list(self._streams):
                try:
                    stream.caller.confirm()
                except SkipVsrError:
                    stream.end()


def _unavailable() -> bytes:
    problem = Problem.from_error(StoreUnavailable("Redis does not answer; events follow when it does."))
    return b"event: unavailable\ndata: %b\n\n" % problem.model_dump_json().encode()
