"""A stream's frames in the network: the calls that they are cut into, one after the other, alone or beside others'."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from media.live.codecs import Rgb
from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Request, Upscaler
from model.routing import RoutingReport
from service.rpc.session_registry import Snapshot, Ticket
from service.rpc.stream_config import Plan

_CPU_BATCH_PIXELS: Final = 57_600
"""LR pixels of one pass, up to which a batch is faster on a CPU: there a frame's calls cost more than its pixels do."""


@dataclass(frozen=True)
class Group:
    """Frames that go into the network together."""

    frames: list[Rgb]
    tickets: list[Ticket]
    last: bool
    """Nothing of this scene follows: what is held back is answered too, and the state ends."""


@dataclass(frozen=True)
class Answers:
    """What came out for a group."""

    frames: list[Rgb]
    tickets: list[Ticket]
    reports: list[RoutingReport]
    snapshot: Snapshot
    """Where the stream can go on from, once these are written."""
    together: int = 1
    """Streams that went through the network as one batch with this one, itself included."""


class Groups:
    """Collects frames into groups, so that each call emits `chunk` of them (see `model.engine.upscaler.groups`)."""

    def __init__(self, plan: Plan, *, pending: int) -> None:
        """`pending`: look-ahead frames that the state, which the stream goes on with, holds already."""
        self._plan = plan
        self._size = plan.chunk + plan.lookahead - pending
        self._frames: list[Rgb] = []
        self._tickets: list[Ticket] = []

    def add(self, rgb: Rgb, ticket: Ticket) -> Group | None:
        """Take a frame, after which the stream goes on; a group, if one is complete with it."""
        self._frames.append(rgb)
        self._tickets.append(ticket)
        return self._take(last=False) if len(self._frames) >= self._size else None

    def add_last(self, rgb: Rgb, ticket: Ticket) -> None:
        """Take the frame that ends the stream: it goes into the last group, and completes none before."""
        self._frames.append(rgb)
        self._tickets.append(ticket)

    def end(self) -> Group:
        """What is left, as the last group of a scene; it may be empty."""
        group = self._take(last=True)
        self._size = self._plan.chunk + self._plan.lookahead
        return group

    def _take(self, *, last: bool) -> Group:
        group = Group(self._frames, self._tickets, last)
        self._frames, self._tickets = [], []
        self._size = self._plan.chunk
        return group


class StreamNetwork:
    """One stream's passage through the network; for the scheduler's thread only."""

    def __init__(self, model: Upscaler, plan: Plan, start: Snapshot, batch: int) -> None:
        """`batch`: most streams to be run together, as the setting has it; 0: as many as pay."""
        self.model, self._plan = model, plan
        self.most = batch or _most_that_pay(model.device.type, plan.source.width * plan.source.height)
        """Streams that are run together, at most."""
        self._state: RecurrentState | None = start.state
        self._pending = deque(start.pending)
        self._consumed, self._answered = start.consumed, start.answered
        self._whole = True

    @property
    def kind(self) -> Hashable:
        """Equal for streams that can be run together; None while this one is computed in crops, which are its own."""
        plan = self._plan
        size = plan.source.width, plan.source.height
        return (self.model, size, plan.routing, plan.chunk, plan.lookahead) if self._whole else None

    def request(self, group: Group) -> Request | None:
        """What the network is to do for a group; None: nothing."""
        self._pending.extend(group.tickets)
        if group.tickets:
            self._consumed = group.tickets[-1].sequence
        if not group.frames and not self._pending:
            return None
        source = self._plan.source
        frames = np.stack(group.frames) if group.frames else np.empty((0, source.height, source.width, 3), np.uint8)
        return Request(frames, self._state, self._plan.lookahead, group.last, self._plan.routing)

    def answers(self, group: Group, result: ChunkResult | None) -> Answers:
        """What came of it; the stream goes on from there."""
        self._state = None if group.last or result is None else result.state
        if result is None:
            return Answers([], [], [], self._snapshot())
        tickets = [self._pending.popleft() for _ in result.frames]
        if tickets:
            self._answered = tickets[-1].sequence
            self._whole = not any(report.units_left_out for report in result.reports)
        cuts = set(result.cuts)
        tickets = [
            Ticket(t.sequence, t.pts, t.arrived, t.scene_start or index in cuts) for index, t in enumerate(tickets)
        ]
        return Answers(list(result.frames), tickets, list(result.reports), self._snapshot(), result.together)

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._state, tuple(self._pending), self._consumed, self._answered)


Outcome = Answers | Exception | None


@dataclass(frozen=True, eq=False)
class Step:
    """A group's turn in its stream's network: a task for the scheduler."""

    network: StreamNetwork
    group: Group | None
    """None: the stream's end, which comes when all that was before it is done."""
    done: Callable[[Outcome], None]
    """Is told the answers, or the error; None at the end."""

    @property
    def kind(self) -> Hashable:
        """Equal for steps that can be run together."""
        return self.network.kind if self.group is not None else None

    @property
    def most(self) -> int:
        """How many of them, at most."""
        return self.network.most

    def run(self, others: Sequence[Step]) -> None:
        """Upscale the groups of this and of other streams, together where they agree; each is told its own outcome."""
        steps = [self, *others]
        try:
            outcomes = _upscaled(steps)
        except Exception as error:
            outcomes = [error] * len(steps)
        for step, outcome in zip(steps, outcomes, strict=True):
            step.done(outcome)


def _upscaled(steps: Sequence[Step]) -> list[Outcome]:
    requests = [step.network.request(step.group) if step.group is not None else None for step in steps]
    results = iter(steps[0].network.model.forward_many([request for request in requests if request is not None]))
    outcomes: list[Outcome] = []
    for step, request in zip(steps, requests, strict=True):
        result = next(results) if request is not None else None
        if step.group is None or isinstance(result, Exception):
            outcomes.append(result if isinstance(result, Exception) else None)
        else:
            outcomes.append(step.network.answers(step.group, result))
    return outcomes


def _most_that_pay(device: str, pixels: int) -> int:
    return max(1, _CPU_BATCH_PIXELS // pixels) if device == "cpu" else sys.maxsize
