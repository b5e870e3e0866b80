"""Output side of a live stream: encode upscaled frames, write the answers, count them."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np

from media.live import codecs
from media.live.codecs import Encoded, Format, Rgb
from model.routing import RoutingReport
from service.rpc.codec_runner import CodecRunner
from service.rpc.session import FrameTicket, Session
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr.v1.wire import FrameResponse


class StreamWriter:
    """Writes a stream's answers to its connection."""

    def __init__(self, session: Session, context: Any, *, runner: CodecRunner, last_received: int | None) -> None:
        """`last_received`: sequence number of the client's last answer before a resumption."""
        self._session, self._context, self._runner = session, context, runner
        self._last_received = last_received
        self._target = session.config.target
        self._encoder = codecs.encoder(self._target)

    async def write(self, rgb: Rgb, ticket: FrameTicket, report: RoutingReport) -> None:
        """Encode, write and count an upscaled frame. Frames already received by the client are omitted."""
        if self._last_received is not None and ticket.sequence <= self._last_received:
            return
        data, key_frame = await self._encode(rgb, key=ticket.scene_start)
        frame = pb.OutputFrame(
            sequence=ticket.sequence,
            pts=ticket.pts,
            skip_ratio=report.skip_ratio,
            model_milliseconds=1000 * report.seconds,
            server_milliseconds=1000 * (time.monotonic() - ticket.arrived),
            scene_start=ticket.scene_start,
            key_frame=key_frame,
        )
        await self._context.write(FrameResponse(frame, data))
        latency = time.monotonic() - ticket.arrived
        if self._session.totals.add(ticket, report, latency):
            self._session.metrics.frame(self._session.config.model, report, latency)

    async def _encode(self, rgb: Rgb, *, key: bool) -> tuple[bytes | memoryview, bool]:
        """Return the frame's data, and whether a decoder can start at this frame."""
        if self._target.format is Format.RGB24:
            return np.ascontiguousarray(rgb).data, True  # a view: serialisation makes the only copy
        coded: Encoded = await self._runner.run(self._target, partial(self._encoder.encode, rgb, key=key))
        return coded.data, coded.key
