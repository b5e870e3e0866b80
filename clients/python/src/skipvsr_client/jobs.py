"""The jobs of a server: `Client.jobs` and `AsyncClient.jobs`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from skipvsr_client.blocking import blocking, blocking_iterator
from skipvsr_client.documents import Job, JobPage, Preview, build
from skipvsr_client.server import Server
from skipvsr_client.transport import Call

_PAGE: Final = 100


class AsyncJobs:
    """Lists, finds and changes jobs."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def list(
        self, *, state: str | Sequence[str] = (), q: str | None = None, limit: int = 50, offset: int = 0
    ) -> JobPage:
        """Return a page of jobs, newest first.

        Args:
            state: only jobs in this state, or in one of these states.
            q: only jobs whose file name contains this text.
            limit: maximum number of jobs, up to 500.
            offset: number of newer jobs to omit.
        """
        states = [state] if isinstance(state, str) else list(state)
        params = {"state": states, "q": q, "limit": limit, "offset": offset}
        given = {name: value for name, value in params.items() if value not in (None, [])}
        return build(JobPage, await self._server.json(Call("GET", "/jobs", params=given), repeat=True))

    async def all(self, *, state: str | Sequence[str] = (), q: str | None = None) -> AsyncIterator[Job]:
        """Yield all jobs, newest first, page by page."""
        offset = 0
        while True:
            page = await self.list(state=state, q=q, limit=_PAGE, offset=offset)
            for job in page.jobs:
                yield job
            offset += len(page.jobs)
            if len(page.jobs) < _PAGE:
                return

    async def get(self, job_id: str) -> Job:
        """Return a job."""
        return build(Job, await self._server.json(Call("GET", f"/jobs/{job_id}"), repeat=True))

    async def cancel(self, job_id: str) -> Job:
        """Stop a job and remove its files. Cancelling twice is harmless."""
        return await self._change(job_id, "cancel", repeat=True)

    async def pause(self, job_id: str) -> Job:
        """Pause a job. Finished chunks are kept."""
        return await self._change(job_id, "pause", repeat=True)

    async def resume(self, job_id: str) -> Job:
        """Resume a paused job from the last checkpoint. A failed job can resume while its files exist."""
        return await self._change(job_id, "resume", repeat=False)

    async def delete(self, job_id: str) -> Job:
        """Cancel an active job, or delete a finished job with its files. Returns the job's last document."""
        return build(Job, await self._server.json(Call("DELETE", f"/jobs/{job_id}"), repeat=False))

    async def report(self, job_id: str) -> dict[str, Any]:
        """Return the figures of a job, also while it runs, as `skipvsr upscale --report` writes them."""
        report: dict[str, Any] = await self._server.json(Call("GET", f"/jobs/{job_id}/report"), repeat=True)
        return report

    async def skipmap(self, job_id: str, *, first: int = 0, count: int = 240) -> dict[str, Any]:
        """Return which cells of which frames the network computed; docs/rest.md describes the format."""
        call = Call("GET", f"/jobs/{job_id}/skipmap", params={"first": first, "count": count})
        skipmap: dict[str, Any] = await self._server.json(call, repeat=True)
        return skipmap

    async def preview(
        self, job_id: str, *, t: float | None = None, view: str = "result", width: int | None = None
    ) -> Preview:
        """Return a picture of a job, also while it runs.

        Args:
            job_id: id of the job.
            t: time in seconds; None: the newest finished frame.
            view: source, bicubic or result.
            width: width of the picture in pixels; None: the server's default.
        """
        params = {"t": t, "view": view, "width": width}
        given = {name: value for name, value in params.items() if value is not None}
        answer = await self._server.fetch(Call("GET", f"/jobs/{job_id}/preview", params=given), repeat=True)
        seconds = answer.headers.get("skipvsr-time")
        return Preview(
            answer.content,
            float(seconds) if seconds is not None else None,
            answer.headers.get("content-type", "image/webp"),
        )

    async def _change(self, job_id: str, operation: str, *, repeat: bool) -> Job:
        return build(Job, await self._server.json(Call("POST", f"/jobs/{job_id}/{operation}"), repeat=repeat))


class Jobs:
    """Lists, finds and changes jobs."""

    def __init__(self, inner: AsyncJobs) -> None:
        self._inner = inner

    list = blocking(AsyncJobs.list)
    all = blocking_iterator(AsyncJobs.all)
    get = blocking(AsyncJobs.get)
    cancel = blocking(AsyncJobs.cancel)
    pause = blocking(AsyncJobs.pause)
    resume = blocking(AsyncJobs.resume)
    delete = blocking(AsyncJobs.delete)
    report = blocking(AsyncJobs.report)
    skipmap = blocking(AsyncJobs.skipmap)
    preview = blocking(AsyncJobs.preview)
