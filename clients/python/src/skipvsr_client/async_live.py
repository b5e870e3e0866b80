"""Live frames in an event loop: `skipvsr_client.live` in threads."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.from_thread
import anyio.to_thread

from skipvsr_client.live import Answer, Stream, StreamClient

if TYPE_CHECKING:
    from skipvsr.v1 import upscaler_pb2 as pb
    from skipvsr_client.live import Frame, Frames

    AsyncFrames = Frames | AsyncIterable[Frame | tuple[int, Frame]]


class AsyncStream:
    """One stream. Iterate for the answers; broken connections are resumed while the server keeps the session.

    Iteration raises Refused or ConnectionFailed if the stream fails.
    """

    def __init__(self, client: StreamClient, frames: AsyncFrames, **config: Any) -> None:
        self._portal, self._ended = anyio.from_thread.BlockingPortal(), threading.Event()
        taken = _taken(frames, self._portal, self._ended) if isinstance(frames, AsyncIterable) else frames
        self._stream: Stream = client.stream(taken, **config)

    @property
    def accepted(self) -> pb.StreamAccepted | None:
        """The effective configuration, available from the first answer on."""
        return self._stream.accepted

    @property
    def summary(self) -> pb.StreamSummary | None:
        """The stream's figures, available at the end."""
        return self._stream.summary

    @property
    def resumptions(self) -> int:
        """Number of broken connections that were resumed."""
        return self._stream.resumptions

    def cancel(self) -> None:
        """Cancel the stream."""
        self._stream.cancel()

    async def __aiter__(self) -> AsyncIterator[Answer]:
        answers, thread = iter(self._stream), partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
        async with self._portal:
            try:
                while (answer := await thread(next, answers, None)) is not None:
                    yield answer
            finally:
                self._ended.set()
                self._stream.cancel()
                await self._portal.stop(cancel_remaining=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


def _taken(
    frames: AsyncIterable[Any], portal: anyio.from_thread.BlockingPortal, ended: threading.Event
) -> Iterator[Any]:
    """The frames of an asynchronous source, for another thread, until the stream has ended."""
    source = aiter(frames)
    end = object()

    async def following() -> Any:
        return await anext(source, end)

    while True:
        try:
            frame = portal.call(following)
        except BaseException:
            if ended.is_set():  # the portal has closed, and has cancelled the wait for a frame
                return
            raise
        if frame is end:
            return
        yield frame
