"""A stream's frames in the network: the calls of `Upscaler.forward` that they are cut into, one after the other."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from media.stream_codecs import Rgb
from model.engine import ChunkResult, Upscaler
from model.routing import RoutingReport
from model.state import RecurrentState
from service.rpc.plan import Plan
from service.rpc.sessions import Snapshot, Ticket


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


class Groups:
    """Collects frames into groups, so that each call emits `chunk` of them (see `model.engine.groups`)."""

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
    """One stream's passage through the network; `run` is called in the scheduler's thread only."""

    def __init__(self, model: Upscaler, plan: Plan, start: Snapshot) -> None:
        self._model, self._plan = model, plan
        self._state: RecurrentState | None = start.state
        self._pending = deque(start.pending)
        self._consumed, self._answered = start.consumed, start.answered

    def run(self, group: Group) -> Answers:
        """Upscale a group. Raises ModelError."""
        self._pending.extend(group.tickets)
        if group.tickets:
            self._consumed = group.tickets[-1].sequence
        result = None
        if group.frames or self._pending:
            result = self._forward(group)
        tickets = [self._pending.popleft() for _ in (result.frames if result else ())]
        if tickets:
            self._answered = tickets[-1].sequence
        self._state = None if group.last or result is None else result.state
        if result is None:
            return Answers([], [], [], self._snapshot())
        cuts = set(result.cuts)
        tickets = [
            Ticket(t.sequence, t.pts, t.arrived, t.scene_start or index in cuts) for index, t in enumerate(tickets)
        ]
        return Answers(list(result.frames), tickets, list(result.reports), self._snapshot())

    def _forward(self, group: Group) -> ChunkResult:
        source = self._plan.source
        frames = np.stack(group.frames) if group.frames else np.empty((0, source.height, source.width, 3), np.uint8)
        return self._model.forward(
            frames, self._state, lookahead=self._plan.lookahead, last=group.last, routing=self._plan.routing
        )

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._state, tuple(self._pending), self._consumed, self._answered)
