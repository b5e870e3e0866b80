"""Input side of a live stream: check and decode frames, collect them into groups, submit the groups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from media.errors import MediaError
from media.limits import Limits
from media.live import codecs
from media.live.codecs import Decoded
from service.rpc.codec_runner import CodecRunner
from service.rpc.errors import invalid
from service.rpc.grouping import FrameGroup, FrameGrouper
from service.rpc.session import FrameTicket, Snapshot
from service.rpc.stream_config import StreamConfig
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr.v1.wire import FrameRequest, StreamMessage

_MAX_SEQUENCE: Final = 2**63 - 1
_MAX_IN_DECODER: Final = 64
"""Access units whose frames may be outstanding. Decoders return nothing for older ones."""


class StreamReader:
    """Turns a stream's messages into groups of decoded frames."""

    def __init__(
        self,
        config: StreamConfig,
        start: Snapshot,
        *,
        runner: CodecRunner,
        permits: asyncio.Semaphore,
        submit: Callable[[FrameGroup | None], None],
        limits: Limits,
    ) -> None:
        """Create a reader.

        Args:
            config: the stream's configuration.
            start: point from which the stream begins or resumes.
            runner: runs the decoder.
            permits: each decoded frame takes one; the writer gives it back.
            submit: receives groups in order, and None at the end of the stream.
            limits: bounds of the decoder's process.
        """
        self._config, self._runner, self._permits, self._submit = config, runner, permits, submit
        self._decoder = codecs.decoder(config.source, limits)
        self._grouper = FrameGrouper(config, pending=len(start.pending))
        self._tickets: dict[int, FrameTicket] = {}
        self._last_sequence = start.consumed
        self._scene_start = start.consumed is None

    async def read(self, message: StreamMessage) -> bool:
        """Process a message. Returns True if its frame ends the stream. Raises StatusError for invalid messages."""
        if not isinstance(message, FrameRequest):
            raise invalid("message", "every message after the config must be a frame")
        frame, data = message.frame, message.data
        if frame.reset:
            await self._end_scene()
            self._scene_start = True
        if data:
            await self._decode(frame, data)
        elif not (frame.reset or frame.end_of_stream):
            raise invalid("frame.data", "the frame has no data")
        return bool(frame.end_of_stream)

    async def finish(self) -> None:
        """Submit all remaining frames and the end of the stream."""
        await self._end_scene()
        self._submit(None)

    async def close(self) -> None:
        """End the decoder's process, also while a thread decodes."""
        await asyncio.to_thread(self._decoder.close)

    async def _end_scene(self) -> None:
        await self._flush_decoder()
        self._submit(self._grouper.end())

    async def _decode(self, frame: pb.InputFrame, data: bytes | memoryview) -> None:
        self._check_sequence(frame.sequence)
        self._tickets[frame.sequence] = FrameTicket(frame.sequence, frame.pts, time.monotonic())
        while len(self._tickets) > _MAX_IN_DECODER:
            self._tickets.pop(next(iter(self._tickets)))
        source = self._config.source
        try:
            decoded = await self._runner.run(source, partial(self._decoder.decode, data, frame.sequence))
        except MediaError as error:
            raise invalid("frame.data", f"{error} (frame {frame.sequence})") from error
        await self._feed(decoded, last=frame.end_of_stream and not source.format.is_video)

    async def _flush_decoder(self) -> None:
        if self._config.source.format.is_video and self._tickets:
            try:
                decoded = await self._runner.run(self._config.source, self._decoder.flush)
            except MediaError as error:
                raise invalid("frame.data", str(error)) from error
            await self._feed(decoded, last=True)
        self._tickets.clear()

    async def _feed(self, decoded: list[Decoded], *, last: bool) -> None:
        """Group decoded frames. `last`: the final one is the last frame of the scene."""
        for index, item in enumerate(decoded):
            ticket = self._tickets.pop(item.number, None)
            if ticket is None:
                continue
            await self._permits.acquire()
            if self._scene_start:
                ticket, self._scene_start = replace(ticket, scene_start=True), False
            if last and index == len(decoded) - 1:
                self._grouper.add_last(item.rgb, ticket)
            elif group := self._grouper.add(item.rgb, ticket):
                self._submit(group)

    def _check_sequence(self, sequence: int) -> None:
        if sequence > _MAX_SEQUENCE:
            raise invalid("frame.sequence", f"{sequence} is above {_MAX_SEQUENCE}")
        if self._last_sequence is not None and sequence <= self._last_sequence:
            raise invalid("frame.sequence", f"{sequence} is not above {self._last_sequence}, the previous frame's")
        self._last_sequence = sequence
