"""Inference for live streams. Groups of a stream run in order, in batches with groups of other streams if possible."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from media.live.codecs import Rgb
from model.engine.budget import needed_bytes, usable_bytes
from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Request, Upscaler
from model.routing import RoutingReport
from service.rpc.grouping import FrameGroup
from service.rpc.session import FrameTicket, Snapshot
from service.rpc.stream_config import StreamConfig

_CPU_BATCH_PIXELS: Final = 57_600
"""LR pixels per pass up to which batching is faster on a CPU, where a small frame's overhead exceeds its arithmetic."""


@dataclass(frozen=True)
class UpscaledGroup:
    """The network's output for a group."""

    frames: list[Rgb]
    tickets: list[FrameTicket]
    reports: list[RoutingReport]
    snapshot: Snapshot
    """Point from which the stream can resume once these frames are written."""
    batch_size: int = 1
    """Number of streams in the batch."""


class StreamInference:
    """One stream's model, recurrent state and outstanding tickets. Use it in the scheduler's thread only."""

    def __init__(self, model: Upscaler, config: StreamConfig, start: Snapshot, max_batch: int) -> None:
        """`max_batch`: maximum streams per batch; 0 chooses a limit by device and frame size."""
        self.model, self._config = model, config
        self.max_batch = largest_batch(model, config, max_batch)
        self._state: RecurrentState | None = start.state
        self._pending = deque(start.pending)
        self._consumed, self._answered = start.consumed, start.answered
        self._dense = True
        """Whether the last frames were computed whole, not in crops."""

    @property
    def batch_key(self) -> Hashable:
        """Batch key: equal for streams able to share a batch; None while the stream is computed in crops."""
        config = self._config
        size = config.source.width, config.source.height
        return (self.model, size, config.routing, config.chunk, config.lookahead) if self._dense else None

    def request(self, group: FrameGroup) -> Request | None:
        """Create the network's request for a group; None if there is nothing to compute."""
        self._pending.extend(group.tickets)
        if group.tickets:
            self._consumed = group.tickets[-1].sequence
        if not group.frames and not self._pending:
            return None
        source = self._config.source
        frames = np.stack(group.frames) if group.frames else np.empty((0, source.height, source.width, 3), np.uint8)
        return Request(frames, self._state, self._config.lookahead, group.last, self._config.routing)

    def accept(self, group: FrameGroup, result: ChunkResult | None) -> UpscaledGroup:
        """Store the new state, and match the emitted frames with their tickets."""
        self._state = None if group.last or result is None else result.state
        if result is None:
            return UpscaledGroup([], [], [], self._snapshot())
        tickets = [self._pending.popleft() for _ in result.frames]
        if tickets:
            self._answered = tickets[-1].sequence
            self._dense = not any(report.units_left_out for report in result.reports)
        scene_cuts = set(result.scene_cuts)
        tickets = [
            replace(ticket, scene_start=ticket.scene_start or index in scene_cuts)
            for index, ticket in enumerate(tickets)
        ]
        return UpscaledGroup(list(result.frames), tickets, list(result.reports), self._snapshot(), result.batch_size)

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._state, tuple(self._pending), self._consumed, self._answered)


InferenceOutcome = UpscaledGroup | Exception | None


@dataclass(frozen=True, eq=False)
class InferenceTask:
    """A scheduler task: one group of a stream."""

    inference: StreamInference
    group: FrameGroup | None
    """None marks the stream's end, which is reached when all earlier tasks are done."""
    on_done: Callable[[InferenceOutcome], None]
    """Called with the result or the error; with None at the stream's end."""

    @property
    def batch_key(self) -> Hashable:
        """Batch key: equal for tasks able to share a batch."""
        return self.inference.batch_key if self.group is not None else None

    @property
    def max_batch(self) -> int:
        """Maximum number of tasks in a batch."""
        return self.inference.max_batch

    def run(self, others: Sequence[InferenceTask]) -> None:
        """Upscale the groups of this task and of `others` in one batch. Every task gets its own outcome."""
        tasks = [self, *others]
        try:
            outcomes = _run_batch(tasks)
        except Exception as error:
            outcomes = [error] * len(tasks)
        for task, outcome in zip(tasks, outcomes, strict=True):
            task.on_done(outcome)


def _run_batch(tasks: Sequence[InferenceTask]) -> list[InferenceOutcome]:
    requests = [task.inference.request(task.group) if task.group is not None else None for task in tasks]
    results = iter(tasks[0].inference.model.forward_many([request for request in requests if request is not None]))
    outcomes: list[InferenceOutcome] = []
    for task, request in zip(tasks, requests, strict=True):
        result = next(results) if request is not None else None
        if task.group is None or isinstance(result, Exception):
            outcomes.append(result if isinstance(result, Exception) else None)
        else:
            outcomes.append(task.inference.accept(task.group, result))
    return outcomes


def largest_batch(model: Upscaler, config: StreamConfig, max_batch: int) -> int:
    """Return the maximum number of streams per batch: `max_batch`, or a limit by device and frame size if 0.

    On a GPU, the batch fits into the memory in any case.
    """
    pixels = config.source.width * config.source.height
    if model.device.type == "cpu":
        return max_batch or max(1, _CPU_BATCH_PIXELS // pixels)
    fits = max(1, usable_bytes(model.device) // needed_bytes(model, pixels, config.chunk + config.lookahead))
    return min(max_batch or fits, fits)
