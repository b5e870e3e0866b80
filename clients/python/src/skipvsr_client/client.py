"""`Client` and `AsyncClient`: the whole of a server, with the same methods."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict, Unpack

import httpx

from skipvsr_client import estimates
from skipvsr_client.activity import OnProgress, away, ignore, of_job
from skipvsr_client.blocking import blocking, blocking_iterator
from skipvsr_client.documents import Estimate, Job, Options, Worker, build
from skipvsr_client.downloads import Downloads
from skipvsr_client.errors import ConnectionFailed, JobCancelled, JobFailed, SkipVsrError
from skipvsr_client.jobs import AsyncJobs, Jobs
from skipvsr_client.server import Server
from skipvsr_client.transport import AsyncTransport, BlockingTransport, Call, Transport
from skipvsr_client.uploads import CountedFile, LocalFile, Uploads
from skipvsr_client.watching import Watching

if TYPE_CHECKING:
    from skipvsr_client.async_live import AsyncFrames, AsyncStream
    from skipvsr_client.live import Frames, Stream, StreamClient

PathText = str | PathLike[str]
DEFAULT_URL: Final = "http://127.0.0.1:8000"
_GRPC_PORT: Final = 50051


class Details(TypedDict, total=False):
    """How to reach a server. Every detail has a default."""

    timeout: float
    """Seconds without a byte after which a connection counts as broken."""
    patience: float
    """Seconds for which the client repeats idempotent requests while the server does not answer."""
    verify: Any
    """Certificate authority for HTTPS, as in httpx: True, or an `ssl.SSLContext`."""
    grpc: str
    """host:port of the gRPC server, for live frames; default: the host of the URL, port 50051."""
    grpc_credentials: Any
    """Result of `grpc.ssl_channel_credentials`; default: no TLS."""


@dataclass(frozen=True)
class Connection:
    """Where a server is, and how to reach it."""

    url: str
    """Address of the REST API."""
    api_key: str | None = field(repr=False)
    timeout: float = 60.0
    patience: float = 60.0
    verify: Any = True
    grpc: str | None = None
    grpc_credentials: Any = None

    def options(self) -> dict[str, Any]:
        """The arguments of httpx. Raises SkipVsrError for an invalid address."""
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise SkipVsrError(f"{self.url} is not the address of a server ({error}): use http://host:8000") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise SkipVsrError(f"{self.url} is not the address of a server: use http://host:8000")
        return {
            "base_url": url,
            "headers": {b"X-API-Key": self.api_key.encode()} if self.api_key else {},
            "timeout": httpx.Timeout(self.timeout, connect=min(10.0, self.timeout)),
            "verify": self.verify,
        }

    def stream_client(self) -> StreamClient:
        """A new connection to the gRPC server. Raises SkipVsrError without the extra `grpc`."""
        try:
            from skipvsr_client.live import StreamClient
        except ImportError as error:
            raise SkipVsrError(
                f"{error.name} is missing: live frames need pip install 'skipvsr-client[grpc]'"
            ) from error
        host = httpx.URL(self.url).host
        target = self.grpc or f"{f'[{host}]' if ':' in host else host}:{_GRPC_PORT}"
        return StreamClient(target, api_key=self.api_key, credentials=self.grpc_credentials)


@dataclass(frozen=True)
class Upscaled:
    """A result on this machine."""

    path: Path
    job: Job


class AsyncClient:
    """A client for an event loop. Use it as an asynchronous context manager."""

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None, **details: Unpack[Details]) -> None:
        """Create a client of the server at `url`, with the server's API key if it has keys."""
        connection = Connection(url, api_key, **details)
        self._begin(connection, AsyncTransport(**connection.options()))

    def _begin(self, connection: Connection, transport: Transport) -> None:
        self.connection = connection
        self._server = Server(transport, connection.url.rstrip("/"), connection.patience)
        self._uploads, self._downloads = Uploads(self._server), Downloads(self._server)
        self._watching = Watching(self._server)
        self._streams: StreamClient | None = None
        self.jobs = AsyncJobs(self._server)

    @classmethod
    def _blocking(cls, connection: Connection) -> Self:
        """The same methods, which never suspend."""
        made = cls.__new__(cls)
        made._begin(connection, BlockingTransport(**connection.options()))
        return made

    async def upscale(
        self,
        path: PathText,
        out: PathText | None = None,
        *,
        upload: str | None = None,
        on_progress: OnProgress = ignore,
        **options: Unpack[Options],
    ) -> Upscaled:
        """Upscale a file: upload, wait, download. The job stays on the server.

        Args:
            path: video file.
            out: result, or a folder; None: the folder of `path`. A folder gets the server's name, e.g. clip-x4.mp4.
            upload: id of an unfinished or finished upload of `path`.
            on_progress: called with an `Activity` while the work goes on.
            options: options of the job.

        Raises:
            JobFailed: the job failed, or was cancelled (JobCancelled).
            Refused, ConnectionFailed, OSError.
        """
        job = await self.submit(path, upload=upload, on_progress=on_progress, **options)
        job = await self.wait(job.id, on_progress=on_progress)
        if job.state != "done":
            raise JobCancelled(job) if job.state == "cancelled" else JobFailed(job)
        result = await self.download(job.id, Path(path).parent if out is None else out, on_progress=on_progress)
        return Upscaled(result, job)

    async def submit(
        self,
        path: PathText,
        *,
        filename: str | None = None,
        upload: str | None = None,
        idempotency_key: str | None = None,
        on_progress: OnProgress = ignore,
        **options: Unpack[Options],
    ) -> Job:
        """Upload a file and queue a job. Broken connections are resumed, and no second job is created.

        Args:
            path: video file.
            filename: name for the server; default: that of `path`.
            upload: id of an unfinished or finished upload of `path`.
            idempotency_key: unique text for this job; default: a random one.
            on_progress: called with an `Activity` for each piece.
            options: options of the job.
        """
        file = await self._server.transport.call(LocalFile.of, Path(path), filename)
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        if upload is not None or await self._uploads.resumable():
            upload = await self._uploads.send(file, upload, on_progress)
            call = Call("POST", "/upscale", headers=headers, json={"upload": upload, **options})
            try:
                return await self._queued(call, on_progress)
            except ConnectionFailed as error:
                error.upload = upload
                raise
        with CountedFile(file, on_progress) as body:
            call = Call("POST", "/upscale", headers=headers, form=_texts(options), files={"file": (file.name, body)})
            return await self._queued(call, on_progress)

    async def upload(
        self,
        path: PathText,
        *,
        filename: str | None = None,
        upload: str | None = None,
        on_progress: OnProgress = ignore,
    ) -> str:
        """Upload a file without a job; return the id for `submit`, `upscale` or `estimate`.

        Args:
            path: video file.
            filename: name for the server; default: that of `path`.
            upload: id of an unfinished upload of `path`, to continue it.
            on_progress: called with an `Activity` for each piece.
        """
        if not await self._uploads.resumable():
            raise SkipVsrError(f"{self._server.url} offers no uploads without a job: use submit or upscale")
        file = await self._server.transport.call(LocalFile.of, Path(path), filename)
        return await self._uploads.send(file, upload, on_progress)

    async def estimate(
        self, path: PathText | None = None, *, upload: str | None = None, **options: Unpack[Options]
    ) -> Estimate:
        """Return the expected output and time for a file, of which only the ends are sent, or for an upload."""
        if upload is not None:
            return await estimates.of_upload(self._server, upload, _texts(options))
        if path is None:
            raise SkipVsrError("estimate needs a path or an upload")
        return await estimates.of_file(self._server, Path(path), _texts(options))

    async def watch(self, job_id: str, *, on_progress: OnProgress = ignore) -> AsyncIterator[Job]:
        """Yield the job now and after each change, until it is done, failed or cancelled.

        The server pushes the changes. If the server cannot push, the client asks twice a second.
        """
        async with aclosing(self._watching.watch(job_id, on_progress)) as jobs:
            async for job in jobs:
                on_progress(of_job(job))
                yield job

    async def wait(self, job_id: str, *, timeout: float | None = None, on_progress: OnProgress = ignore) -> Job:
        """Wait until a job is done, failed or cancelled; return it. A paused job is waited for.

        Raises TimeoutError after `timeout` seconds; the job goes on.
        """
        end = None if timeout is None else time.monotonic() + timeout
        async with aclosing(self._watching.watch(job_id, on_progress, end=end)) as jobs:
            async for job in jobs:
                on_progress(of_job(job))
                if job.final:
                    return job
        raise AssertionError("unreachable")

    async def download(
        self, job_id: str, out: PathText | None = None, *, file: str = "result", on_progress: OnProgress = ignore
    ) -> Path:
        """Download the result of a job; return its path. The target is complete, or does not exist.

        A broken connection is resumed. An interrupted download leaves a hidden file beside the target, from which the
        next download of the same file to the same target continues.

        Args:
            job_id: id of the job.
            out: file to write or replace, or an existing folder; None: the current folder.
            file: result, or input for the uploaded video.
            on_progress: called with an `Activity` for each piece.
        """
        target = None if out is None else Path(out)
        return await self._downloads.save(f"/jobs/{job_id}/{file}", target, f"{job_id}.video", on_progress)

    async def models(self) -> list[str]:
        """Return the names of the models of all live workers."""
        found: list[str] = (await self._server.json(Call("GET", "/models"), repeat=True))["models"]
        return found

    async def workers(self) -> list[Worker]:
        """Return the live workers."""
        document = await self._server.json(Call("GET", "/workers"), repeat=True)
        return [build(Worker, worker) for worker in document["workers"]]

    def stream(
        self, frames: AsyncFrames, *, width: int, height: int, timeout: float | None = None, **config: Any
    ) -> AsyncStream:
        """Upscale live frames over gRPC. Nothing is sent until the returned stream is iterated.

        Args:
            frames: frames, or (pts, frame), from an iterable or an asynchronous iterable. A frame is an object with
                the buffer protocol: bytes in the input format, by default RGB24, or a uint8 array [H, W, 3].
            width: frame width in pixels.
            height: frame height in pixels.
            timeout: seconds for each connection; None for no limit.
            config: further fields of `StreamConfig`.
        """
        rpc = self.rpc  # names the missing package, if any
        from skipvsr_client.async_live import AsyncStream

        return AsyncStream(rpc, frames, width=width, height=height, timeout=timeout, **config)

    @property
    def rpc(self) -> StreamClient:
        """The connection to the gRPC server, with the generated stubs `jobs` and `upscaler`."""
        if self._streams is None:
            self._streams = self.connection.stream_client()
        return self._streams

    async def close(self) -> None:
        """Close all connections."""
        if self._streams is not None:
            self._streams.close()
        await self._server.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _queued(self, call: Call, on_progress: OnProgress) -> Job:
        patience = self._server.patience(away(on_progress))
        return build(Job, await self._server.json(call, repeat=True, pending=True, patience=patience))


class Client:
    """A client without an event loop. Use it as a context manager."""

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None, **details: Unpack[Details]) -> None:
        """Create a client of the server at `url`, with the server's API key if it has keys."""
        self._inner = AsyncClient._blocking(Connection(url, api_key, **details))
        self.jobs = Jobs(self._inner.jobs)

    upscale = blocking(AsyncClient.upscale)
    submit = blocking(AsyncClient.submit)
    upload = blocking(AsyncClient.upload)
    estimate = blocking(AsyncClient.estimate)
    watch = blocking_iterator(AsyncClient.watch)
    wait = blocking(AsyncClient.wait)
    download = blocking(AsyncClient.download)
    models = blocking(AsyncClient.models)
    workers = blocking(AsyncClient.workers)
    close = blocking(AsyncClient.close)

    def stream(self, frames: Frames, *, width: int, height: int, timeout: float | None = None, **config: Any) -> Stream:
        """Upscale live frames over gRPC. Nothing is sent until the returned stream is iterated.

        Args:
            frames: frames, or (pts, frame). A frame is an object with the buffer protocol: bytes in the input format,
                by default RGB24, or a uint8 array [H, W, 3].
            width: frame width in pixels.
            height: frame height in pixels.
            timeout: seconds for each connection; None for no limit.
            config: further fields of `StreamConfig`.
        """
        return self.rpc.stream(frames, width=width, height=height, timeout=timeout, **config)

    @property
    def connection(self) -> Connection:
        """Where the server is, and how to reach it."""
        return self._inner.connection

    @property
    def rpc(self) -> StreamClient:
        """The connection to the gRPC server, with the generated stubs `jobs` and `upscaler`."""
        return self._inner.rpc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _texts(options: Options) -> dict[str, str]:
    return {name: str(value) for name, value in options.items()}
