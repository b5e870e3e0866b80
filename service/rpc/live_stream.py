"""One stream on one connection: frames are read, decoded, upscaled, encoded and written, all at the same time.

    reader task ── Group ──▶ scheduler's thread ── Answers ──▶ writer task

A frame takes one of `max_in_flight` permits when it has been read and gives it back when its answer has been written,
so a client that does not take its answers stops the reader, and then, through HTTP/2's flow control, itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

import numpy as np
from grpc import StatusCode

from jobs.settings import Settings
from media.errors import MediaError
from media.live import codecs
from media.live.codecs import Decoded, Encoded, Rgb
from model.engine.upscaler import Upscaler
from model.routing import RoutingReport
from service.rpc.errors import StreamError, invalid
from service.rpc.inference import Group, Groups, Outcome, Step, StreamNetwork
from service.rpc.scheduler import Lane, Scheduler
from service.rpc.session_registry import Session, Snapshot, Ticket
from service.rpc.wire import FrameRequest, FrameResponse
from skipvsr.v1 import upscaler_pb2 as pb

T = TypeVar("T")
Incoming = pb.StreamRequest | FrameRequest
_MOST_SEQUENCE: Final = 2**63 - 1
_MOST_IN_DECODER: Final = 64
"""Access units whose frames may be outstanding; of older ones nothing comes any more."""


class LiveStream:
    """A stream on its connection."""

    def __init__(
        self, session: Session, model: Upscaler, scheduler: Scheduler, executor: Executor, settings: Settings
    ) -> None:
        self.session, self._plan = session, session.plan
        self._scheduler, self._executor, self._settings = scheduler, executor, settings
        self._loop = asyncio.get_running_loop()
        self._start: Snapshot = session.snapshots[-1]
        self._network = StreamNetwork(model, self._plan, self._start, settings.grpc_batch)
        self._groups = Groups(self._plan, pending=len(self._start.pending))
        self._permits = asyncio.Semaphore(max(1, self.max_in_flight - len(self._start.pending)))
        self._results: asyncio.Queue[Outcome] = asyncio.Queue()
        self._decoder = codecs.decoder(self._plan.source)
        self._encoder = codecs.encoder(self._plan.target)
        self._tickets: dict[int, Ticket] = {}
        self._last_sequence = self._start.consumed
        self._scene_start = self._start.consumed is None
        self._in_model = 0
        self._touched = time.monotonic()
        self._lane: Lane | None = None

    @property
    def max_in_flight(self) -> int:
        """Most frames whose answer may be outstanding."""
        return self._plan.max_in_flight(self._settings.grpc_in_flight)

    async def run(self, requests: AsyncIterator[Incoming], context: Any, last_received: int | None) -> None:
        """Serve the stream to its end. Raises StreamError, or another of our errors, where that comes early."""
        self._lane = self._scheduler.open_lane()
        reader = asyncio.create_task(self._read(requests))
        writer = asyncio.create_task(self._write(context, last_received))
        waiting: set[asyncio.Future[Any]] = {reader, writer, self.session.stop}
        try:
            while True:
                done, _ = await asyncio.wait(waiting, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                if self.session.stop in done:
                    raise self.session.stop.result()
                for task in done:
                    task.result()
                if writer in done:
                    return
                waiting -= done
                self._check_idle()
        finally:
            reader.cancel()
            writer.cancel()
            self._scheduler.close_lane(self._lane)
            await asyncio.gather(reader, writer, return_exceptions=True)

    # ---- in ---------------------------------------------------------------------------------------------------------

    async def _read(self, requests: AsyncIterator[Incoming]) -> None:
        async for request in requests:
            self._touched = time.monotonic()
            if not isinstance(request, FrameRequest):
                raise invalid("message", "after the first message, which is the config, each has to be a frame")
            if await self._take(request.frame, request.data):
                break
        await self._drain_decoder()
        self._submit(self._groups.end())
        self._submit(None)

    async def _take(self, frame: pb.InputFrame, data: bytes | memoryview) -> bool:
        """Returns whether the stream ends with this frame."""
        if frame.reset:
            await self._drain_decoder()
            self._submit(self._groups.end())
            self._scene_start = True
        if data:
            self._check_sequence(frame.sequence)
            self._tickets[frame.sequence] = Ticket(frame.sequence, frame.pts, time.monotonic())
            while len(self._tickets) > _MOST_IN_DECODER:
                self._tickets.pop(next(iter(self._tickets)))
            try:
                decoded = await self._coded(self._plan.source, self._decoder.decode, data, frame.sequence)
            except MediaError as error:
                raise invalid("frame.data", f"{error} (frame {frame.sequence})") from error
            await self._feed(decoded, last=frame.end_of_stream and not self._plan.source.format.is_video)
        elif not (frame.reset or frame.end_of_stream):
            raise invalid("frame.data", "the frame has none")
        return bool(frame.end_of_stream)

    async def _drain_decoder(self) -> None:
        if self._plan.source.format.is_video and self._tickets:
            try:
                decoded = await self._coded(self._plan.source, self._decoder.flush)
            except MediaError as error:
                raise invalid("frame.data", str(error)) from error
            await self._feed(decoded, last=True)
        self._tickets.clear()

    async def _feed(self, decoded: list[Decoded], *, last: bool) -> None:
        for index, item in enumerate(decoded):
            ticket = self._tickets.pop(item.number, None)
            if ticket is None:
                continue
            await self._permits.acquire()
            if self._scene_start:
                ticket, self._scene_start = Ticket(ticket.sequence, ticket.pts, ticket.arrived, True), False
            if last and index == len(decoded) - 1:
                self._groups.add_last(item.rgb, ticket)
            elif group := self._groups.add(item.rgb, ticket):
                self._submit(group)

    def _check_sequence(self, sequence: int) -> None:
        if sequence > _MOST_SEQUENCE:
            raise invalid("frame.sequence", f"{sequence} is above {_MOST_SEQUENCE}")
        if self._last_sequence is not None and sequence <= self._last_sequence:
            raise invalid("frame.sequence", f"{sequence} is not above {self._last_sequence}, the one before")
        self._last_sequence = sequence

    def _submit(self, group: Group | None) -> None:
        """Queue a group for the network; None: the stream's end."""
        self._in_model += 1

        def done(outcome: Outcome) -> None:
            self._loop.call_soon_threadsafe(self._came, outcome)

        assert self._lane is not None
        self._scheduler.submit(self._lane, Step(self._network, group, done))

    # ---- out --------------------------------------------------------------------------------------------------------

    def _came(self, outcome: Outcome) -> None:
        self._in_model -= 1
        self._touched = time.monotonic()
        self._results.put_nowait(outcome)

    async def _write(self, context: Any, last_received: int | None) -> None:
        while (outcome := await self._results.get()) is not None:
            if isinstance(outcome, Exception):
                raise outcome
            if self.session.meters is not None and outcome.frames:
                self.session.meters.batches.observe(outcome.together)
            for rgb, ticket, report in zip(outcome.frames, outcome.tickets, outcome.reports, strict=True):
                if last_received is None or ticket.sequence > last_received:
                    await self._answer(context, rgb, ticket, report)
                self._permits.release()
            self.session.remember(outcome.snapshot)
            del outcome

    async def _answer(self, context: Any, rgb: Rgb, ticket: Ticket, report: RoutingReport) -> None:
        data: bytes | memoryview
        if self._plan.target.format is codecs.Format.RGB24:
            data, key = np.ascontiguousarray(rgb).data, True  # not copied before it is on the wire
        else:
            coded: Encoded = await self._coded(self._plan.target, self._encoder.encode, rgb, key=ticket.scene_start)
            data, key = coded.data, coded.key
        frame = pb.OutputFrame(
            sequence=ticket.sequence,
            pts=ticket.pts,
            skip_ratio=report.skip_ratio,
            model_milliseconds=1000 * report.seconds,
            server_milliseconds=1000 * (time.monotonic() - ticket.arrived),
            scene_start=ticket.scene_start,
            key_frame=key,
        )
        await context.write(FrameResponse(frame, data))
        now = time.monotonic()
        self._touched = now
        totals = self.session.totals
        if totals.counted is None or ticket.sequence > totals.counted:
            totals.counted = ticket.sequence
            totals.frames += 1
            totals.units += report.units_total
            totals.skipped += report.units_left_out
            totals.reused += report.units_reused
            totals.scenes += ticket.scene_start
            totals.model_seconds += report.seconds
            totals.dense_seconds += report.dense_seconds
            totals.latencies.add(now - ticket.arrived)
            if self.session.meters is not None:
                self.session.meters.frame(self.session.plan.model, report, now - ticket.arrived)

    # ---- both -------------------------------------------------------------------------------------------------------

    async def _coded(self, coding: codecs.Coding, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Decode or encode; in another thread, unless the bytes are the pixels already."""
        if coding.format is codecs.Format.RGB24:
            return work(*args, **kwargs)
        return await self._loop.run_in_executor(self._executor, lambda: work(*args, **kwargs))

    def _check_idle(self) -> None:
        seconds = self._settings.grpc_idle_seconds
        if not self._in_model and time.monotonic() - self._touched > seconds:
            what = "no answer was taken" if not self._results.empty() or self._permits.locked() else "no frame came"
            raise StreamError(
                StatusCode.DEADLINE_EXCEEDED,
                f"{what} for {seconds:g} s (SKIPVSR_GRPC_IDLE_SECONDS)",
                reason="STREAM_IDLE",
            )
