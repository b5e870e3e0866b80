"""`JobService`: the jobs of the REST API, through the same operations."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from grpc import StatusCode

from jobs.errors import InvalidRequest
from jobs.names import media_type, result_name
from jobs.schema import Job
from jobs.settings import Settings
from jobs.stored import StoredFile
from service.admission import Admissions
from service.estimating import Estimating
from service.operations import Operations
from service.rpc import call, messages
from service.rpc.errors import StatusError, reported, stopping
from service.rpc.job_uploads import JobUploads
from skipvsr.v1 import upscaler_pb2 as pb

log = logging.getLogger(__name__)
_NEUTRAL: Final = "application/octet-stream"
"""Media type of uploads, which the server does not vouch for."""
_WATCH_SECONDS: Final = 0.25
"""Polling interval of WatchJob."""
_MAX_PAGE: Final = 500
_MAX_TEXT: Final = 200
_PAGE_TOKEN: Final = re.compile(r"[0-9]{1,9}")


class _Places:
    """A limited number of calls at the same time.

    Args:
        most: the limit.
        kind: plural name of the calls.
        remedy: advice for further calls.
        setting: name of the limit's setting.
    """

    def __init__(self, most: int, kind: str, remedy: str, setting: str) -> None:
        self._most, self._kind, self._remedy, self._setting = most, kind, remedy, setting
        self._used = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Take a place during the block. Raises StatusError if there is none."""
        if self._used >= self._most:
            message = f"the server has reached its limit of {self._most} {self._kind} ({self._setting}); {self._remedy}"
            reason = f"TOO_MANY_{self._kind.upper()}"
            raise StatusError(StatusCode.RESOURCE_EXHAUSTED, message, reason=reason, retry_after=5)
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1


class JobService:
    """RPCs of jobs. upscaler.proto documents their behaviour."""

    def __init__(self, settings: Settings, operations: Operations, admissions: Admissions) -> None:
        self._operations, self._uploads = operations, JobUploads(settings, admissions)
        self._estimating = Estimating(settings, admissions)
        self._watchers = _Places(settings.grpc_max_watchers, "watchers", "use GetJob", "SKIPVSR_GRPC_MAX_WATCHERS")
        self._downloads = _Places(
            settings.grpc_max_downloads, "downloads", "try again later", "SKIPVSR_GRPC_MAX_DOWNLOADS"
        )
        self.stopping = asyncio.Event()
        """Set at shutdown. Clients that watch a job then get UNAVAILABLE with RetryInfo."""

    async def CreateJob(self, requests: AsyncIterator[pb.CreateJobRequest], context: Any) -> pb.CreateJobResponse:
        async with reported(context, "CreateJob") as extra:
            job, replayed = await self._uploads.receive(requests, self._own)
            call.entry().job_id = job.id
            log.info("job %s: queued by request %s", job.id, extra["request_id"], extra={**extra, "job_id": job.id})
            return pb.CreateJobResponse(job=messages.job(job), replayed=replayed)

    async def EstimateJob(self, requests: AsyncIterator[pb.EstimateJobRequest], context: Any) -> pb.EstimateJobResponse:
        async with reported(context, "EstimateJob"):
            with self._estimating.place():
                config, ends = await self._uploads.receive_ends(requests)
                answer = await self._estimating.of_ends(self._own, messages.options(config.options), ends)
            return messages.estimate(answer)

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:
        async with reported(context, "GetJob"):
            job = await asyncio.to_thread(self._own.get, request.job_id)
            return pb.GetJobResponse(job=messages.job(job))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        async with reported(context, "ListJobs"):
            if request.page_token and not _PAGE_TOKEN.fullmatch(request.page_token):
                raise InvalidRequest("page_token: use the next_page_token of the previous page, or nothing")
            if request.page_size > _MAX_PAGE:
                raise InvalidRequest(f"page_size: {request.page_size} is above the maximum, {_MAX_PAGE}")
            if len(request.filename_contains) > _MAX_TEXT:
                raise InvalidRequest(f"filename_contains: the text is longer than {_MAX_TEXT} characters")
            size, offset = request.page_size or 50, int(request.page_token or 0)
            states, text = messages.states(request), request.filename_contains
            found = await asyncio.to_thread(self._own.page, states, text, limit=size, offset=offset)
            return messages.page(found, str(offset + size) if offset + size < found.total else "")

    async def WatchJob(self, request: pb.WatchJobRequest, context: Any) -> AsyncIterator[pb.WatchJobResponse]:
        async with reported(context, "WatchJob"), self._watchers.taken():
            shown: Job | None = None
            operations = self._own
            while True:
                job = await asyncio.to_thread(operations.get, request.job_id)
                if job != shown:
                    shown = job
                    yield pb.WatchJobResponse(job=messages.job(job))
                if job.state.final:
                    return
                try:
                    async with asyncio.timeout(_WATCH_SECONDS):
                        await self.stopping.wait()
                    raise stopping()
                except TimeoutError:
                    continue

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:
        return pb.CancelJobResponse(job=await self._changed(context, "CancelJob", request.job_id, Operations.cancel))

    async def PauseJob(self, request: pb.PauseJobRequest, context: Any) -> pb.PauseJobResponse:
        return pb.PauseJobResponse(job=await self._changed(context, "PauseJob", request.job_id, Operations.pause))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Any) -> pb.ResumeJobResponse:
        return pb.ResumeJobResponse(job=await self._changed(context, "ResumeJob", request.job_id, Operations.resume))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Any) -> pb.DeleteJobResponse:
        return pb.DeleteJobResponse(job=await self._changed(context, "DeleteJob", request.job_id, Operations.remove))

    async def DownloadResult(
        self, request: pb.DownloadResultRequest, context: Any
    ) -> AsyncIterator[pb.DownloadResultResponse]:
        async with reported(context, "DownloadResult"), self._downloads.taken():
            job, file = await asyncio.to_thread(self._own.result, request.job_id)
            facts = pb.FileFacts(filename=result_name(job, file.name), media_type=media_type(file.name))
            async with aclosing(_parts(file, facts, request.offset)) as parts:
                async for part in parts:
                    yield pb.DownloadResultResponse(**part)

    async def DownloadInput(
        self, request: pb.DownloadInputRequest, context: Any
    ) -> AsyncIterator[pb.DownloadInputResponse]:
        async with reported(context, "DownloadInput"), self._downloads.taken():
            job, file = await asyncio.to_thread(self._own.input, request.job_id)
            facts = pb.FileFacts(filename=job.filename, media_type=_NEUTRAL)
            async with aclosing(_parts(file, facts, request.offset)) as parts:
                async for part in parts:
                    yield pb.DownloadInputResponse(**part)

    async def _changed(self, context: Any, name: str, job_id: str, change: Callable[[Operations, str], Job]) -> pb.Job:
        """The job after a change by its caller."""
        async with reported(context, name):
            call.entry().job_id = job_id
            return messages.job(await asyncio.to_thread(change, self._own, job_id))

    @property
    def _own(self) -> Operations:
        """The operations of the call's caller."""
        return self._operations.for_caller(call.caller())


async def _parts(stored: StoredFile, facts: pb.FileFacts, offset: int) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the parts of a download: the facts with the file's size, then the bytes from `offset` on."""
    async with stored.opened() as file:
        facts.size_bytes = file.size
        if offset > file.size:
            raise InvalidRequest(f"offset: {offset} is beyond the file's size, {file.size}")
        yield {"file": facts}
        async with aclosing(file.blocks(offset, file.size)) as blocks:
            async for data in blocks:
                yield {"data": data}
