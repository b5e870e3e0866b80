"""`UpscalerService`: live streams."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from grpc import StatusCode

from jobs.allowance import Meter
from jobs.settings import Settings
from model.engine.budget import longest_chunk, needed_bytes
from model.engine.upscaler import Upscaler
from model.zoo.cache import ModelCache
from service.operations import Operations
from service.rpc import call
from service.rpc.codec_runner import CodecRunner
from service.rpc.device_watch import DeviceWatch
from service.rpc.errors import StatusError, invalid, reported
from service.rpc.inference import largest_batch
from service.rpc.live_stream import LiveStream, Permission
from service.rpc.scheduler import Scheduler
from service.rpc.session import Session
from service.rpc.session_registry import SessionRegistry
from service.rpc.stream_config import StreamConfig, resolve
from service.rpc.stream_memory import StreamCost
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr.v1.wire import StreamMessage

log = logging.getLogger(__name__)


class UpscalerService:
    """RPCs of live streams. upscaler.proto documents their behaviour."""

    def __init__(
        self,
        settings: Settings,
        models: ModelCache[Upscaler],
        scheduler: Scheduler,
        sessions: SessionRegistry,
        operations: Operations,
        watch: DeviceWatch,
    ) -> None:
        self._watch = watch
        self._settings, self._models, self._scheduler, self._sessions = settings, models, scheduler, sessions
        self._operations = operations
        self._executor = ThreadPoolExecutor(thread_name_prefix="codec")
        self._runner = CodecRunner(self._executor)

    async def Stream(self, requests: AsyncIterator[StreamMessage], context: Any) -> None:
        # The stream's place among its key's jobs is free before the session can be resumed, and needs the place again.
        async with reported(context, "Stream") as extra, AsyncExitStack() as sessions, AsyncExitStack() as places:
            message = await self._first_message(requests)
            config = await asyncio.to_thread(self._resolved, message)
            model = await asyncio.to_thread(self._model, config.model)
            resume = message.resume if message.HasField("resume") else None
            owner = call.caller().key_id
            if resume:
                session = await self._sessions.resume(config, resume.session_token, owner)
            else:
                meter = await places.enter_async_context(self._counted(resumed=False))
                session = self._sessions.open(self._fitting(config, model), partial(self._cost, model), owner)
            finished, begun = False, time.monotonic()
            sessions.callback(lambda: self._end(session, extra, finished=finished, begun=begun))
            last_received = None
            if resume:
                meter = await places.enter_async_context(self._counted(resumed=True))
                last_received = resume.last_received if resume.HasField("last_received") else None
                session.rewind(last_received)
            permission = Permission(call.caller().confirm, meter)
            live = LiveStream(session, model, self._scheduler, self._runner, self._settings, permission, self._watch)
            call.entry().write(StatusCode.OK.name)
            await context.write(pb.StreamResponse(config=self._accepted(session, model, live)))
            await live.run(requests, context, last_received)
            await context.write(pb.StreamResponse(summary=_summary(session)))
            finished = True

    @asynccontextmanager
    async def _counted(self, *, resumed: bool) -> AsyncIterator[Meter]:
        """Count a stream of the caller during the block. Raises LimitReached."""
        stream = self._operations.for_caller(call.caller()).stream(resumed=resumed)
        meter = await asyncio.to_thread(stream.__enter__)
        try:
            yield meter
        finally:
            await asyncio.to_thread(stream.__exit__, None, None, None)

    def _end(self, session: Session, extra: dict[str, object], *, finished: bool, begun: float) -> None:
        self._sessions.release(session, finished=finished)
        log.info(
            "stream of %dx%d: %d frames, %s after %.1f s",
            session.config.source.width,
            session.config.source.height,
            session.totals.frames,
            "ended" if finished else "interrupted",
            time.monotonic() - begun,
            extra=extra,
        )

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        async with reported(context, "ListModels"):
            models = [pb.Model(name=card.name, description=card.description) for card in self._models.present()]
            return pb.ListModelsResponse(models=models, default_model=self._models.default)

    def _resolved(self, message: pb.StreamConfig) -> StreamConfig:
        """Choose the stream's model, and resolve the config. Raises StatusError, and ModelError for unknown models."""
        name = self._models.resolved(message.model or "auto", message.scale or None)
        return resolve(message, self._settings, name, self._models.scale(name))

    def _model(self, name: str) -> Upscaler:
        """Return a model, loaded if necessary. Raises ModelError, and RuntimeError if the device fails."""
        try:
            return self._models.get(name)
        except Exception as error:
            self._watch.see(error)
            raise

    def close(self) -> None:
        """Shut down the codec threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _first_message(self, requests: AsyncIterator[StreamMessage]) -> pb.StreamConfig:
        """Wait for the config. Raises StatusError if another message, nothing or the stream's end arrives."""
        seconds = self._settings.grpc_idle_seconds
        try:
            async with asyncio.timeout(seconds):
                first = await anext(requests, None)
        except TimeoutError:
            raise StatusError(
                StatusCode.DEADLINE_EXCEEDED,
                f"no config arrived for {seconds:g} s (SKIPVSR_GRPC_IDLE_SECONDS)",
                reason="STREAM_IDLE",
            ) from None
        if first is None:
            raise invalid("message", "the stream ended before its config arrived")
        if not isinstance(first, pb.StreamRequest) or not first.HasField("config"):
            raise invalid("message", "the first message must be the config")
        return first.config

    def _fitting(self, config: StreamConfig, model: Upscaler) -> StreamConfig:
        """Shorten the chunk to the memory there is. Raises StatusError if not even one frame fits."""
        pixels = config.source.width * config.source.height
        budget = self._settings.max_model_bytes
        fits = longest_chunk(model, pixels, config.chunk, config.lookahead, budget=budget)
        if fits >= 1:
            return replace(config, chunk=fits, ahead=self._scheduler.places - 1 if model.strands else 0)
        needed = needed_bytes(model, pixels, 1 + config.lookahead)
        size = f"{config.source.width}x{config.source.height}"
        raise StatusError(
            StatusCode.RESOURCE_EXHAUSTED,
            f"{size} with a look-ahead of {config.lookahead} needs about {needed / 1e6:,.0f} MB of memory, and the "
            "server has less (SKIPVSR_MAX_MODEL_BYTES); use less look-ahead or smaller frames",
            reason="OUT_OF_MEMORY",
            field="config.lookahead",
            retry_after=5,
        )

    def _cost(self, model: Upscaler, config: StreamConfig) -> StreamCost:
        in_flight = config.max_in_flight(self._settings.grpc_in_flight)
        batch = largest_batch(model, config, self._settings.grpc_batch)
        return StreamCost.of(model, config, in_flight=in_flight, batch=batch)

    def _accepted(self, session: Session, model: Upscaler, live: LiveStream) -> pb.StreamAccepted:
        config = session.config
        accepted = pb.StreamAccepted(
            effective=config.to_message(),
            output_width=config.target.width,
            output_height=config.target.height,
            latency_frames=config.latency_frames,
            max_in_flight=live.max_in_flight,
            max_message_bytes=self._settings.grpc_message_bytes,
            session_token=session.token,
            resume_after=session.snapshots[-1].consumed,
            device=str(model.device),
            precision=model.precision,
        )
        if session.token:
            accepted.session_ttl.FromMilliseconds(round(1000 * self._settings.grpc_session_seconds))
        return accepted


def _summary(session: Session) -> pb.StreamSummary:
    totals = session.totals
    p50, p95, p99 = (1000 * totals.latencies.percentile(percent) for percent in (50, 95, 99))
    return pb.StreamSummary(
        frames=totals.frames,
        skip_ratio=totals.left_out / totals.units if totals.units else 0.0,
        reuse_ratio=totals.reused / totals.units if totals.units else 0.0,
        speedup=totals.dense_seconds / totals.model_seconds if totals.model_seconds else 1.0,
        latency_p50_milliseconds=p50,
        latency_p95_milliseconds=p95,
        latency_p99_milliseconds=p99,
        scenes=totals.scenes,
        model_seconds=totals.model_seconds,
    )
