"""Upscale one stream chunk by chunk, with backward halves of the next chunks beside the forward half of a chunk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

from model.engine.chunk import Chunk, ChunkResult, Frames, Receiver, Request
from model.engine.halves import Begun, Halves
from model.engine.state import RecurrentState
from model.engine.strands import Executor, Strand
from model.engine.work import Observer
from model.engine.yuv import YuvFormat
from model.routing import Preset

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The next frames of a stream (`model.engine.upscaler.groups`)."""

    frames: Frames
    last: bool
    """Whether the group ends the stream."""
    observer: Observer | None = None
    """Follows the steps of the chunk."""
    receiver: Receiver | None = None
    """On a CPU, receives each HR frame, in RGB. Else the frames come with the result only."""
    yuv: YuvFormat | None = None
    """Format of the upscaled frames; None: RGB."""


class Overlap:
    """Computes the chunks of one stream in both halves.

    Args:
        plan: plans a request.
        halves: computes planned chunks.
        executor: runs the steps.
        ahead: number of chunks to begin ahead of the chunk to finish.
        lookahead: look-ahead frames of each chunk.
        routing: routing of the stream.
    """

    def __init__(
        self,
        plan: Callable[[Request, Executor], Chunk],
        halves: Halves,
        executor: Executor,
        *,
        ahead: int,
        lookahead: int,
        routing: str | Preset,
    ) -> None:
        self._plan, self._halves, self._executor = plan, halves, executor
        self._ahead, self._lookahead, self._routing = ahead, lookahead, routing
        self._failure: Exception | None = None

    def results(self, groups: Iterable[Group], state: RecurrentState | None) -> Iterator[ChunkResult]:
        """Yield the result of each group. The forward half of a chunk begins when the chunk before has been taken.

        An error of `groups`, or of planning, is raised after the results of all groups before.
        """
        source, begun = self._begun(groups, state), deque[tuple[Begun, Receiver | None]]()
        while True:
            self._fill(begun, source, 1)
            if not begun:
                break
            first, receiver = begun[0]
            forward = self._finish(first, receiver, state)
            self._fill(begun, source, 1 + self._ahead)
            result = self._halves.wait(first, forward, self._executor)[0]
            state = None if first.chunks[0].last else result.state
            begun.popleft()
            del first, receiver, forward
            yield result
            del result
        if self._failure is not None:
            raise self._failure

    def _begun(self, groups: Iterable[Group], state: RecurrentState | None) -> Iterator[tuple[Begun, Receiver | None]]:
        """Plan the groups, and begin the backward half of each."""
        for turn, group in enumerate(groups):
            begun = self._begin(group, state, turn)
            state = None if group.last else begun.chunks[0].planned_state
            yield begun, group.receiver
            del group, begun

    def _fill(self, begun: deque[T], source: Iterator[T], count: int) -> None:
        """Take from `source` until `count` chunks are begun, and keep its error."""
        try:
            while len(begun) < count and (following := next(source, None)) is not None:
                begun.append(following)
        except Exception as error:
            self._failure = error

    @torch.inference_mode()
    def _begin(self, group: Group, state: RecurrentState | None, turn: int) -> Begun:
        request = Request(group.frames, state, self._lookahead, group.last, self._routing, group.yuv)
        chunk = self._plan(request, self._executor)
        return self._halves.begin([chunk], self._executor, turn=turn, observer=group.observer)

    @torch.inference_mode()
    def _finish(
        self, begun: Begun, receiver: Receiver | None, state: RecurrentState | None
    ) -> Strand[list[ChunkResult]]:
        return self._halves.finish(begun, self._executor, None if state is None else [state], receiver)
