"""A batch of chunks that computes beside other batches, on the threads of a crew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from model.engine.chunk import Chunk, ChunkResult
from model.engine.halves import Halves
from model.engine.state import RecurrentState
from model.engine.strands import Crew, Fate, Strand, single
from model.engine.work import Observer


class Batch:
    """Chunks of several streams with equal batch keys, or one chunk. The backward half begins at once.

    Args:
        chunks: the planned chunks.
        halves: computes the batches.
        crew: runs the steps.
        turn: place among the batches of the same streams.
        used: time of the streams so far; the stream with the least time computes first.
        observer: follows the steps of a single chunk.
        in_turn: whether the strands of a half take turns (`Halves.begin`).
        alone: computes one of several chunks in the calling thread, after the batch has failed.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        halves: Halves,
        crew: Crew,
        *,
        turn: int,
        used: Callable[[], float],
        observer: Observer | None,
        in_turn: bool,
        alone: Callable[[Chunk], ChunkResult | Exception],
    ) -> None:
        self.chunks, self._halves, self._crew, self._turn = chunks, halves, crew, turn
        self._before: Sequence[RecurrentState] = [chunk.before for chunk in chunks]
        self._alone = alone
        followed = observer if len(chunks) == 1 else None
        self._begun = halves.begin(chunks, crew, turn=turn, used=used, observer=followed, in_turn=in_turn)
        self._forward: Strand[list[ChunkResult]] | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock time of planning and of all steps so far; batches side by side share the time."""
        return float(self._begun.spent[0]) + sum(float(chunk.planning[0]) for chunk in self.chunks)

    @torch.inference_mode()
    def finish(self, states: Sequence[RecurrentState | None], done: Callable[[], None]) -> None:
        """Begin the forward half, given the complete states before the chunks; None at the start of a stream.

        A thread of the crew calls `done` when `results` are there.
        """
        self._before = [state or chunk.before for state, chunk in zip(states, self.chunks, strict=True)]
        self._forward = self._halves.finish(self._begun, self._crew, self._before)
        self._crew.start(Strand(single(done), np.zeros(2), (self._turn, 0), Fate(), [self._forward]))

    @torch.inference_mode()
    def results(self) -> list[ChunkResult | Exception]:
        """Wait for the result of each chunk, or the error. After a failure, each chunk runs alone."""
        assert self._forward is not None
        try:
            return list(self._halves.wait(self._begun, self._forward, self._crew))
        except Exception as error:
            if len(self.chunks) == 1:
                return [error]
        # Outside of the handler: the traceback holds tensors.
        return [
            self._alone(replace(chunk, before=state)) for chunk, state in zip(self.chunks, self._before, strict=True)
        ]
