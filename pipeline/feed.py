"""The HR frames of a chunk, on their way from the network to the encoder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from model.engine.chunk import Frames
from model.engine.upscaler import ChunkResult


class Dropped(Exception):
    """The network has dropped the chunk: the run is halted, or an error follows."""


class ChunkFeed:
    """Passes the frames of a chunk on. The network's threads put frames in; the caller's thread takes them."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Frames | ChunkResult | None] = SimpleQueue()
        self._put = 0
        self._result: ChunkResult | None = None
        self.waited = 0.0
        """Seconds for which the caller's thread has waited for frames."""

    @property
    def result(self) -> ChunkResult:
        """The result of the chunk, known after the last frame."""
        assert self._result is not None
        return self._result

    # The network's threads

    def put(self, rgb: Frames) -> None:
        """Pass on the next HR frame [s H, s W, 3]."""
        self._put += 1
        self._queue.put(rgb)

    def finish(self, result: ChunkResult) -> None:
        """The chunk is complete: pass on the frames that `put` has not, and the result."""
        for rgb in result.frames[self._put :]:
            self.put(rgb)
        self._queue.put(result)

    def drop(self) -> None:
        """The chunk will not be complete."""
        self._queue.put(None)

    # The caller's thread

    def polled(self, seconds: float) -> Iterator[Frames | None]:
        """Yield the frames, and None after each `seconds` without a frame. Raises Dropped."""
        while True:
            begun = time.perf_counter()
            try:
                item = self._queue.get(timeout=seconds)
            except Empty:
                yield None
                continue
            finally:
                self.waited += time.perf_counter() - begun
            if item is None:
                raise Dropped
            if isinstance(item, ChunkResult):
                self._result = item
                return
            yield item
            del item
