"""Inference for live streams. Groups of a stream run in order, in batches with groups of other streams if possible."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from media.live.codecs import Rgb
from model.engine.batch import Batch
from model.engine.budget import needed_bytes, usable_bytes
from model.engine.chunk import Chunk, ChunkResult, Request
from model.engine.state import RecurrentState
from model.engine.strands import Crew
from model.engine.upscaler import Upscaler
from model.engine.work import Interrupted
from model.routing import RoutingReport
from service.rpc.grouping import FrameGroup
from service.rpc.scheduler import Place
from service.rpc.session import FrameTicket, Snapshot
from service.rpc.stream_config import StreamConfig

_CPU_BATCH_PIXELS: Final = 57_600
"""LR pixels per pass up to which batching is faster on a CPU: a small frame's overhead exceeds its arithmetic."""


@dataclass(frozen=True)
class UpscaledGroup:
    """The network's output for a group."""

    frames: list[Rgb]
    tickets: list[FrameTicket]
    reports: list[RoutingReport]
    snapshot: Snapshot
    """Point from which the stream can resume after these frames are written."""
    batch_size: int = 1
    """Number of streams in the batch."""


class StreamInference:
    """One stream's model, recurrent state and outstanding tickets. Use it in the scheduler's thread only."""

    def __init__(self, model: Upscaler, config: StreamConfig, start: Snapshot, max_batch: int) -> None:
        """`max_batch`: maximum streams per batch; 0 chooses a limit by device and frame size."""
        self.model, self._config = model, config
        self.max_batch = largest_batch(model, config, max_batch)
        pixels = config.source.width * config.source.height
        self.memory = needed_bytes(model, pixels, config.chunk + config.lookahead)
        """Bytes of a chunk in the network."""
        self.closed = threading.Event()
        """Set from any thread when nobody waits for the stream: on a CPU, a chunk in work ends after its next step."""
        self.state: RecurrentState | None = start.state
        """State after the last chunk with a result."""
        self._planned: RecurrentState | None = None
        """State after the last chunk in work, without features and HR frame."""
        self._in_work = 0
        """Number of planned chunks without a result."""
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
        state = self._planned if self._in_work else self.state
        if not group.frames and (state is None or not len(state.pending)):
            return None
        source, observer = self._config.source, self._observe if self.model.device.type == "cpu" else None
        frames = np.stack(group.frames) if group.frames else np.empty((0, source.height, source.width, 3), np.uint8)
        return Request(frames, state, self._config.lookahead, group.last, self._config.routing, observer=observer)

    def planned(self, group: FrameGroup, chunk: Chunk) -> None:
        """Note that a group is in work: its result comes after the next request."""
        self._planned = None if group.last else chunk.planned_state
        self._in_work += 1

    def accept(self, group: FrameGroup, result: ChunkResult | None, *, planned: bool = False) -> UpscaledGroup:
        """Store the new state, and match the emitted frames with their tickets. Groups come in order."""
        self._in_work -= planned
        self._pending.extend(group.tickets)
        if group.tickets:
            self._consumed = group.tickets[-1].sequence
        self.state = None if group.last or result is None else result.state
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
        return Snapshot(self.state, tuple(self._pending), self._consumed, self._answered)

    def _observe(self, _: float) -> None:
        if self.closed.is_set():
            raise Interrupted


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

    @property
    def beside(self) -> bool:
        """Whether the network's rounding allows a task beside others."""
        return self.inference.model.strands

    @property
    def memory(self) -> int:
        """Bytes of a chunk in the network."""
        return self.inference.memory if self.group is not None else 0

    def run(self, others: Sequence[InferenceTask]) -> None:
        """Upscale the groups of this task and of `others` in one batch. Every task gets its own outcome."""
        tasks = [self, *others]
        try:
            outcomes = _run_batch(tasks)
        except Exception as error:
            outcomes = [error] * len(tasks)
        for task, outcome in zip(tasks, outcomes, strict=True):
            task.on_done(outcome)

    def begin(self, others: Sequence[InferenceTask], crew: Crew, place: Place) -> Sequence[InferenceWork]:
        """Begin to upscale the groups of this task and of `others`, in batches where their plans allow."""
        tasks = [self, *others]
        try:
            return _begin_batch(tasks, crew, place)
        except Exception as error:
            return [InferenceWork([index], [task], None, error) for index, task in enumerate(tasks)]


class InferenceWork:
    """Groups in work beside others: a batch, or one task without anything to compute."""

    def __init__(
        self,
        places: Sequence[int],
        tasks: Sequence[InferenceTask],
        batch: Batch | None = None,
        error: Exception | None = None,
    ) -> None:
        self.places = places
        self._tasks, self._batch, self._error = tasks, batch, error
        for task, chunk in zip(tasks, batch.chunks if batch else (), strict=batch is not None):
            assert task.group is not None
            task.inference.planned(task.group, chunk)

    @property
    def seconds(self) -> float:
        """Wall-clock time of the network so far."""
        return self._batch.seconds if self._batch else 0.0

    def finish(self, done: Callable[[], None]) -> None:
        """Begin the forward half: the groups before have their results. `done` is called when the results are there."""
        if self._batch:
            self._batch.finish([task.inference.state for task in self._tasks], done)
        else:
            done()

    def end(self) -> list[bool]:
        """Hand over the outcomes. Returns whether each stream can go on."""
        results = self._batch.results() if self._batch else [self._error]
        outcomes = [self._outcome(task, result) for task, result in zip(self._tasks, results, strict=True)]
        for task, outcome in zip(self._tasks, outcomes, strict=True):
            task.on_done(outcome)
        return [not isinstance(outcome, Exception) for outcome in outcomes]

    def _outcome(self, task: InferenceTask, result: ChunkResult | Exception | None) -> InferenceOutcome:
        if task.group is None or isinstance(result, Exception):
            return result if isinstance(result, Exception) else None
        return task.inference.accept(task.group, result, planned=self._batch is not None)


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


def _begin_batch(tasks: Sequence[InferenceTask], crew: Crew, place: Place) -> list[InferenceWork]:
    requests = [task.inference.request(task.group) if task.group is not None else None for task in tasks]
    works = [InferenceWork([index], [tasks[index]]) for index, request in enumerate(requests) if request is None]
    indices = [index for index, request in enumerate(requests) if request is not None]
    due = [request for request in requests if request is not None]
    begin = tasks[0].inference.model.begin_many
    errors, batches = begin(due, crew, turn=place.turn, used=place.used, in_turn=place.alone)
    for number, error in errors.items():
        works.append(InferenceWork([indices[number]], [tasks[indices[number]]], None, error))
    for numbers, batch in batches:
        mine = [indices[number] for number in numbers]
        works.append(InferenceWork(mine, [tasks[index] for index in mine], batch))
    return works


def largest_batch(model: Upscaler, config: StreamConfig, max_batch: int) -> int:
    """Return the maximum number of streams per batch: `max_batch`, or a limit by device and frame size if 0.

    On a GPU, the batch fits into the memory in any case.
    """
    pixels = config.source.width * config.source.height
    if model.device.type == "cpu":
        return max_batch or max(1, _CPU_BATCH_PIXELS // pixels)
    fits = max(1, usable_bytes(model.device) // needed_bytes(model, pixels, config.chunk + config.lookahead))
    return min(max_batch or fits, fits)
