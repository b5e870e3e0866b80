"""`UpscalerService`: live streams."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from grpc import StatusCode

from jobs.settings import Settings
from model.engine.upscaler import Upscaler
from model.zoo.cache import ModelCache
from service.rpc.errors import StreamError, invalid, reported
from service.rpc.scheduler import Scheduler
from service.rpc.sessions import Session, Sessions
from service.rpc.stream import Incoming, LiveStream
from service.rpc.stream_config import plan
from skipvsr.v1 import upscaler_pb2 as pb

log = logging.getLogger(__name__)


class UpscalerService:
    """The RPCs of live streams; see upscaler.proto for what they promise."""

    def __init__(
        self, settings: Settings, models: ModelCache[Upscaler], scheduler: Scheduler, sessions: Sessions
    ) -> None:
        self._settings, self._models, self._scheduler, self.sessions = settings, models, scheduler, sessions
        self._executor = ThreadPoolExecutor(thread_name_prefix="codec")

    async def Stream(self, requests: AsyncIterator[Incoming], context: Any) -> None:
        async with reported(context, "Stream") as extra:
            config = await self._config(requests)
            wanted = plan(config, self._settings, self._models.default)
            model = await asyncio.to_thread(self._models.get, wanted.model)
            resume = config.resume if config.HasField("resume") else None
            last_received = resume.last_received if resume and resume.HasField("last_received") else None
            if resume:
                session = await self.sessions.resume(wanted, resume.session_token)
            else:
                session = self.sessions.open(wanted)
            finished = False
            begun = time.monotonic()
            try:
                if resume:
                    session.go_back(last_received)
                live = LiveStream(session, model, self._scheduler, self._executor, self._settings)
                await context.write(pb.StreamResponse(config=self._accepted(session, model, live)))
                await live.run(requests, context, last_received)
                await context.write(pb.StreamResponse(summary=self._summary(session)))
                finished = True
            finally:
                self.sessions.release(session, finished=finished)
                log.info(
                    "stream %dx%d of %d frames %s after %.1f s",
                    wanted.source.width,
                    wanted.source.height,
                    session.totals.frames,
                    "ended" if finished else "broke off",
                    time.monotonic() - begun,
                    extra=extra,
                )

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        async with reported(context, "ListModels"):
            models = [pb.Model(name=card.name, description=card.description) for card in self._models.present()]
            return pb.ListModelsResponse(models=models, default_model=self._models.default)

    def close(self) -> None:
        """Release the codecs' threads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _config(self, requests: AsyncIterator[Incoming]) -> pb.StreamConfig:
        try:
            async with asyncio.timeout(self._settings.grpc_idle_seconds):
                async for request in requests:
                    if not isinstance(request, pb.StreamRequest) or not request.HasField("config"):
                        raise invalid("message", "the first message has to be the config")
                    return request.config
        except TimeoutError:
            seconds = self._settings.grpc_idle_seconds
            raise StreamError(
                StatusCode.DEADLINE_EXCEEDED,
                f"no config came for {seconds:g} s (SKIPVSR_GRPC_IDLE_SECONDS)",
                reason="STREAM_IDLE",
            ) from None
        raise invalid("message", "the stream ended before its config came")

    def _accepted(self, session: Session, model: Upscaler, live: LiveStream) -> pb.StreamAccepted:
        wanted = session.plan
        accepted = pb.StreamAccepted(
            effective=wanted.document(),
            output_width=wanted.target.width,
            output_height=wanted.target.height,
            latency_frames=wanted.latency_frames,
            max_in_flight=live.max_in_flight,
            max_message_bytes=self._settings.grpc_max_message_bytes,
            session_token=session.token,
            resume_after=session.snapshots[-1].consumed,
            device=str(model.device),
            precision=str(model.dtype).removeprefix("torch."),
        )
        if session.token:
            accepted.session_ttl.FromMilliseconds(round(1000 * self._settings.grpc_session_seconds))
        return accepted

    def _summary(self, session: Session) -> pb.StreamSummary:
        totals = session.totals
        p50, p95, p99 = (1000 * totals.latencies.percentile(percent) for percent in (50, 95, 99))
        return pb.StreamSummary(
            frames=totals.frames,
            skip_ratio=totals.skipped / totals.units if totals.units else 0.0,
            reuse_ratio=totals.reused / totals.units if totals.units else 0.0,
            speedup=totals.dense_seconds / totals.model_seconds if totals.model_seconds else 1.0,
            latency_p50_milliseconds=p50,
            latency_p95_milliseconds=p95,
            latency_p99_milliseconds=p99,
            scenes=totals.scenes,
            model_seconds=totals.model_seconds,
        )
