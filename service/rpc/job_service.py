"""`JobService`: the jobs of the REST API, through the same operations."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from grpc import StatusCode

from jobs.errors import InvalidRequest
from jobs.incoming import Incoming
from jobs.schema import Job
from jobs.settings import Settings
from jobs.storage import open_regular
from service.admission import Admissions, Pace, oversized
from service.names import harmless_name, media_type, result_name
from service.operations import Operations
from service.rpc import call, messages
from service.rpc.errors import StatusError, reported, stopping
from skipvsr.v1 import upscaler_pb2 as pb

log = logging.getLogger(__name__)
_DOWNLOAD_CHUNK_BYTES: Final = 256 * 1024
_WATCH_SECONDS: Final = 0.25
"""Polling interval of WatchJob."""
_MAX_PAGE: Final = 500
_PAGE_TOKEN: Final = re.compile(r"[0-9]{1,9}")


class _Places:
    """A limited number of calls at the same time.

    Args:
        most: the limit.
        kind: plural name of the calls, as in the name of the setting.
        remedy: advice for further calls.
    """

    def __init__(self, most: int, kind: str, remedy: str) -> None:
        self._most, self._kind, self._remedy = most, kind, remedy
        self._used = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Take a place during the block. Raises StatusError if there is none."""
        if self._used >= self._most:
            setting, reason = f"SKIPVSR_GRPC_MAX_{self._kind.upper()}", f"TOO_MANY_{self._kind.upper()}"
            message = f"the server has reached its limit of {self._most} {self._kind} ({setting}); {self._remedy}"
            raise StatusError(StatusCode.RESOURCE_EXHAUSTED, message, reason=reason, retry_after=5)
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1


class JobService:
    """RPCs of jobs. upscaler.proto documents their behaviour."""

    def __init__(self, settings: Settings, operations: Operations, admissions: Admissions) -> None:
        self._settings, self._operations, self._admissions = settings, operations, admissions
        self._watchers = _Places(settings.grpc_max_watchers, "watchers", "use GetJob")
        self._downloads = _Places(settings.grpc_max_downloads, "downloads", "try again later")
        self.stopping = asyncio.Event()
        """Set at shutdown. Clients that watch a job then get UNAVAILABLE with RetryInfo."""

    async def CreateJob(self, requests: AsyncIterator[pb.CreateJobRequest], context: Any) -> pb.CreateJobResponse:
        async with reported(context, "CreateJob") as extra:
            job = await self._create(requests, self._own)
            call.entry().job_id = job.id
            log.info("job %s: queued by request %s", job.id, extra["request_id"], extra={**extra, "job_id": job.id})
            return pb.CreateJobResponse(job=messages.job(job))

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
            size, offset = request.page_size or 50, int(request.page_token or 0)
            state = messages.state(request.state)
            found = await asyncio.to_thread(self._own.recent, state=state, limit=size + 1, offset=offset)
            return pb.ListJobsResponse(
                jobs=[messages.job(job) for job in found[:size]],
                next_page_token=str(offset + size) if len(found) > size else "",
            )

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
        async with reported(context, "CancelJob"):
            call.entry().job_id = request.job_id
            job = await asyncio.to_thread(self._own.cancel, request.job_id)
            return pb.CancelJobResponse(job=messages.job(job))

    async def PauseJob(self, request: pb.PauseJobRequest, context: Any) -> pb.PauseJobResponse:
        async with reported(context, "PauseJob"):
            call.entry().job_id = request.job_id
            job = await asyncio.to_thread(self._own.pause, request.job_id)
            return pb.PauseJobResponse(job=messages.job(job))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Any) -> pb.ResumeJobResponse:
        async with reported(context, "ResumeJob"):
            call.entry().job_id = request.job_id
            job = await asyncio.to_thread(self._own.resume, request.job_id)
            return pb.ResumeJobResponse(job=messages.job(job))

    async def DownloadResult(
        self, request: pb.DownloadResultRequest, context: Any
    ) -> AsyncIterator[pb.DownloadResultResponse]:
        async with reported(context, "DownloadResult"), self._downloads.taken(), AsyncExitStack() as stack:
            job, path = await asyncio.to_thread(self._own.result, request.job_id)
            file = await stack.enter_async_context(_opened(path))
            size = await asyncio.to_thread(file.seek, 0, 2)
            if request.offset > size:
                raise InvalidRequest(f"offset: {request.offset} is beyond the file's size, {size}")
            await asyncio.to_thread(file.seek, request.offset)
            yield pb.DownloadResultResponse(
                file=pb.FileFacts(filename=result_name(job, path), media_type=media_type(path), size_bytes=size)
            )
            while data := await asyncio.to_thread(file.read, _DOWNLOAD_CHUNK_BYTES):
                yield pb.DownloadResultResponse(data=data)

    @property
    def _own(self) -> Operations:
        """The operations of the call's caller."""
        return self._operations.for_caller(call.caller())

    async def _create(self, requests: AsyncIterator[pb.CreateJobRequest], operations: Operations) -> Job:
        pace = Pace(self._settings.upload_idle_seconds, self._settings.upload_min_rate)
        first = await _next(requests, pace)
        if first is None or first.WhichOneof("part") != "config":
            raise InvalidRequest("the first message must be the config")
        config = first.config
        options = messages.options(config.options)
        await asyncio.to_thread(operations.check_model, options.model)
        self._check_bytes(config.size_bytes)
        async with AsyncExitStack() as stack:
            # Entered and left in threads, because the context manager does blocking file operations.
            upload = operations.upload(config.size_bytes)
            incoming = await asyncio.to_thread(upload.__enter__)
            stack.push_async_exit(lambda *error: asyncio.to_thread(upload.__exit__, *error))
            size = await self._receive(requests, incoming, pace)
            await asyncio.to_thread(incoming.close)
            if config.HasField("size_bytes") and size != config.size_bytes:
                raise InvalidRequest(f"only {size:,} of {config.size_bytes:,} bytes arrived: the upload was cut off")
            scale = await asyncio.to_thread(operations.scale_of, options.model)
            admission = await self._admissions.admit(incoming.path, options, scale)
            return await asyncio.to_thread(operations.submit, incoming.path, harmless_name(config.filename), admission)

    async def _receive(self, requests: AsyncIterator[pb.CreateJobRequest], target: Incoming, pace: Pace) -> int:
        while (request := await _next(requests, pace)) is not None:
            if request.WhichOneof("part") != "chunk":
                raise InvalidRequest("every message after the config must be a chunk")
            data = request.chunk.data  # each access copies the bytes
            self._check_bytes(target.size + len(data))
            await asyncio.to_thread(target.write, data)
            call.entry().bytes = target.size
        if not target.size:
            raise InvalidRequest("the file is empty: send its bytes as chunks after the config")
        return target.size

    def _check_bytes(self, size: int) -> None:
        limit = self._settings.max_upload_bytes
        if size > limit:
            raise oversized(limit)


async def _next(requests: AsyncIterator[pb.CreateJobRequest], pace: Pace) -> pb.CreateJobRequest | None:
    """Return the next message; None at the end. Raises UploadStalled if bytes of the file arrive too slowly."""
    try:
        async with asyncio.timeout(pace.wait()):
            request = await anext(requests, None)
    except TimeoutError:
        raise pace.error() from None
    pace.received(request.ByteSize() if request is not None else 0)
    return request


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[BinaryIO]:
    file = await asyncio.to_thread(open_regular, path)
    try:
        yield file
    finally:
        await asyncio.to_thread(file.close)
