"""Event streams (server-sent events): changes of jobs, pushed to clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service import callers
from service.http.auth import CallerDep, JobsDep, known_name, needs, require_key, same_site
from service.http.dependencies import StreamsDep
from service.http.responses import problems
from service.http.streams import STREAM, Stream, Streams

MEDIA_TYPE = "text/event-stream"
_MOST_DIGITS = 18
router = APIRouter(dependencies=[Depends(require_key), Depends(known_name), Depends(same_site)], tags=["jobs"])
_READ = [needs(callers.Scope.READ)]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `job` (data: the job document), `removed` (data: an object with the job's `id`) and "
        "`unavailable` (data: a problem document; Redis does not answer, and the stream goes on later).",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
_LAST_ID = "The `id` of the last event that the client has received; browsers send the header by themselves."
LastId = Annotated[str, Header(alias="Last-Event-ID", description=_LAST_ID)]


class EventStream(StreamingResponse):
    """The response of an open stream, which is closed with the response."""

    media_type = MEDIA_TYPE

    def __init__(self, streams: Streams, stream: Stream, text: AsyncIterator[bytes]) -> None:
        super().__init__(text, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._streams, self._stream = streams, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.close(self._stream)


@router.get(
    "/events",
    summary="Follow all jobs",
    dependencies=_READ,
    status_code=200,
    response_class=EventStream,
    responses={**_RESPONSES, **problems(401, 403, 503)},
)
async def all_events(
    request: Request, streams: StreamsDep, caller: CallerDep, last_event_id: LastId = ""
) -> EventStream:
    """Follow the jobs of the API key: first the unfinished jobs, then every change.

    After a lost connection, `Last-Event-ID` gets all changes since then.
    """
    return await _stream(request, streams, streams.open(caller), last_event_id)


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job",
    dependencies=_READ,
    status_code=200,
    response_class=EventStream,
    responses={**_RESPONSES, **problems(401, 403, 404, 503)},
)
async def job_events(
    job_id: str,
    request: Request,
    streams: StreamsDep,
    caller: CallerDep,
    operations: JobsDep,
    last_event_id: LastId = "",
) -> EventStream:
    """Follow one job: its current document at once, then every change, at most four a second."""
    await run_in_threadpool(operations.get, job_id)
    return await _stream(request, streams, streams.open(caller, job_id), last_event_id)


async def _stream(request: Request, streams: Streams, stream: Stream, last_event_id: str) -> EventStream:
    known = last_event_id.isascii() and last_event_id.isdecimal() and len(last_event_id) <= _MOST_DIGITS
    try:
        text = await streams.events(stream, int(last_event_id) if known else None)
    except BaseException:
        streams.close(stream)
        raise
    setattr(request.state, STREAM, stream)
    return EventStream(streams, stream, text)
