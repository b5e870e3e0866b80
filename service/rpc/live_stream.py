"""One stream on one connection. Reading, decoding, upscaling, encoding and writing overlap in time.

    reader task ── FrameGroup ──▶ scheduler's thread ── UpscaledGroup ──▶ writer task

Each frame takes one of `max_in_flight` permits after decoding, and returns the permit when its answer is written. A
client that reads no answers therefore stops the reader, and HTTP/2 flow control then stops the client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from grpc import StatusCode

from jobs.allowance import Meter
from jobs.settings import Settings
from model.engine.upscaler import Upscaler
from pipeline.source import media_limits
from service.rpc.codec_runner import CodecRunner
from service.rpc.device_watch import DeviceWatch
from service.rpc.errors import StatusError
from service.rpc.grouping import FrameGroup
from service.rpc.inference import InferenceOutcome, InferenceTask, StreamInference
from service.rpc.scheduler import Lane, Scheduler
from service.rpc.session import Session
from service.rpc.stream_reader import StreamReader
from service.rpc.stream_writer import StreamWriter
from skipvsr.v1.wire import FrameRequest, StreamMessage


@dataclass(frozen=True)
class Permission:
    """The facts with which a stream can continue."""

    confirm: Callable[[], None]
    """Raises Unauthorized if the caller's key has been revoked or has expired."""
    meter: Meter
    """Counts the bytes of the frames."""

    async def count(self, size: int) -> None:
        """Count the bytes of a frame. Raises LimitReached, StoreUnavailable."""
        if self.meter.asks(size):
            await asyncio.to_thread(self.meter.count, size)
        else:
            self.meter.count(size)


class LiveStream:
    """A stream on its current connection."""

    def __init__(
        self,
        session: Session,
        model: Upscaler,
        scheduler: Scheduler,
        runner: CodecRunner,
        settings: Settings,
        permission: Permission,
        watch: DeviceWatch,
    ) -> None:
        self._watch = watch
        self._session, self._scheduler, self._runner, self._settings = session, scheduler, runner, settings
        self._permission = permission
        self._loop = asyncio.get_running_loop()
        self._start = session.snapshots[-1]
        self._inference = StreamInference(model, session.config, self._start, settings.grpc_batch)
        self._permits = asyncio.Semaphore(max(1, self.max_in_flight - len(self._start.pending)))
        self._outcomes: asyncio.Queue[InferenceOutcome] = asyncio.Queue()
        self._in_model = 0
        self._last_activity = time.monotonic()

    @property
    def max_in_flight(self) -> int:
        """Maximum number of frames without a written answer."""
        return self._session.config.max_in_flight(self._settings.grpc_in_flight)

    async def run(self, requests: AsyncIterator[StreamMessage], context: Any, last_received: int | None) -> None:
        """Serve the stream until its end. Raises StatusError, SkipVsrError, ModelError or MediaError if it fails.

        Args:
            requests: the messages after the config.
            context: grpc's context, to which the answers are written.
            last_received: sequence number of the client's last answer before a resumption.
        """
        lane = self._scheduler.open_lane(self._session.config.ahead)
        reader = asyncio.create_task(self._read(requests, lane))
        writer = asyncio.create_task(self._write(context, last_received))
        try:
            await self._supervise(reader, writer)
        finally:
            reader.cancel()
            writer.cancel()
            self._inference.closed.set()
            self._scheduler.close_lane(lane)
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _supervise(self, reader: asyncio.Future[None], writer: asyncio.Future[None]) -> None:
        """Wait for the writer's end. Raises the error of either task, the registry's stop error, or an idle error."""
        waiting: set[asyncio.Future[Any]] = {reader, writer, self._session.stop}
        while True:
            done, _ = await asyncio.wait(waiting, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            if self._session.stop in done:
                raise self._session.stop.result()
            for task in done:
                task.result()
            if writer in done:
                return
            waiting -= done
            self._permission.confirm()
            self._check_idle()

    async def _read(self, requests: AsyncIterator[StreamMessage], lane: Lane) -> None:
        def submit(group: FrameGroup | None) -> None:
            self._in_model += 1
            self._scheduler.submit(lane, InferenceTask(self._inference, group, self._on_done_in_thread))

        reader = StreamReader(
            self._session.config,
            self._start,
            runner=self._runner,
            permits=self._permits,
            submit=submit,
            limits=media_limits(self._settings),
        )
        try:
            async for message in requests:
                self._last_activity = time.monotonic()
                if isinstance(message, FrameRequest):
                    await self._permission.count(len(message.data))
                if await reader.read(message):
                    break
            await reader.finish()
        finally:
            await reader.close()

    def _on_done_in_thread(self, outcome: InferenceOutcome) -> None:
        self._watch.see(outcome)
        self._loop.call_soon_threadsafe(self._on_done, outcome)

    def _on_done(self, outcome: InferenceOutcome) -> None:
        self._in_model -= 1
        self._last_activity = time.monotonic()
        self._outcomes.put_nowait(outcome)

    async def _write(self, context: Any, last_received: int | None) -> None:
        writer = StreamWriter(self._session, context, runner=self._runner, last_received=last_received)
        while (outcome := await self._outcomes.get()) is not None:
            if isinstance(outcome, Exception):
                raise outcome
            if outcome.frames:
                self._session.metrics.batches.observe(outcome.batch_size)
            for rgb, ticket, report in zip(outcome.frames, outcome.tickets, outcome.reports, strict=True):
                await writer.write(rgb, ticket, report)
                self._last_activity = time.monotonic()
                self._permits.release()
            self._session.remember(outcome.snapshot)
            del outcome  # free the frames before waiting for the next group

    def _check_idle(self) -> None:
        seconds = self._settings.grpc_idle_seconds
        if self._in_model or time.monotonic() - self._last_activity <= seconds:
            return
        blocked = not self._outcomes.empty() or self._permits.locked()
        event = "the client read no answer" if blocked else "no frame arrived"
        raise StatusError(
            StatusCode.DEADLINE_EXCEEDED,
            f"{event} for {seconds:g} s (SKIPVSR_GRPC_IDLE_SECONDS)",
            reason="STREAM_IDLE",
        )
