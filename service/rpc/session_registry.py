"""Streams that are served, and those whose connection broke and that may come back for a while."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from dataclasses import dataclass, field, fields
from typing import Final

import torch
from grpc import StatusCode
from torch import Tensor

from model.engine.memory import give_back
from model.engine.state import RecurrentState
from service.rpc.errors import StreamError, stopping
from service.rpc.latency import Latencies
from service.rpc.stream_config import Plan
from service.rpc.stream_metrics import StreamMetrics

log = logging.getLogger(__name__)

_MOST_SNAPSHOTS: Final = 16
_MOST_SNAPSHOT_BYTES: Final = 256 * 1024**2
_HANDOVER_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Ticket:
    """What is known of a frame besides its pixels."""

    sequence: int
    pts: int
    arrived: float
    """By the monotonic clock, in seconds."""
    scene_start: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A point from which a stream can go on: a value, as the state is one."""

    state: RecurrentState | None = None
    pending: tuple[Ticket, ...] = ()
    """Of the frames that the state holds back."""
    consumed: int | None = None
    """Sequence number of the last input frame that is in it; None: none."""
    answered: int | None = None
    """Sequence number of the last answer before it; None: none."""

    @property
    def nbytes(self) -> int:
        """Memory that the state takes."""
        if self.state is None:
            return 0
        values = (getattr(self.state, f.name) for f in fields(self.state))
        return sum(value.nbytes for value in values if isinstance(value, Tensor))


@dataclass
class Totals:
    """Figures of a stream, over all its connections."""

    frames: int = 0
    units: int = 0
    skipped: int = 0
    reused: int = 0
    """Of those skipped."""
    scenes: int = 0
    model_seconds: float = 0.0
    dense_seconds: float = 0.0
    """What the dense network takes for the same frames."""
    counted: int | None = None
    """Frames up to this number are counted; one that is answered again is not counted again."""
    latencies: Latencies = field(default_factory=Latencies)


@dataclass(eq=False)
class Session:
    """One stream, whichever connection it is on."""

    plan: Plan
    token: str
    stop: asyncio.Future[StreamError]
    """Resolved from outside to end the connection that it is on with that error."""
    snapshots: deque[Snapshot] = field(default_factory=lambda: deque([Snapshot()]))
    totals: Totals = field(default_factory=Totals)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    expiry: asyncio.TimerHandle | None = None
    meters: StreamMetrics | None = None
    """The server's, where it keeps any."""

    def remember(self, snapshot: Snapshot) -> None:
        """Keep a point to go on from; the oldest go where there are too many, or they are too large."""
        self.snapshots.append(snapshot)
        most = min(_MOST_SNAPSHOTS, max(1, _MOST_SNAPSHOT_BYTES // max(1, snapshot.nbytes)))
        while len(self.snapshots) > most:
            self.snapshots.popleft()

    def go_back(self, last_received: int | None) -> Snapshot:
        """The newest point at or before an answer, which becomes the last one. Raises StreamError if it is gone."""
        while self.snapshots:
            answered = self.snapshots[-1].answered
            if answered is None or (last_received is not None and answered <= last_received):
                return self.snapshots[-1]
            self.snapshots.pop()
        raise StreamError(
            StatusCode.FAILED_PRECONDITION,
            f"what followed answer {last_received} is no longer kept; start a new stream",
            reason="SESSION_LOST",
            field="config.resume.last_received",
        )


class Sessions:
    """All streams of a server. For the event loop's thread only."""

    def __init__(
        self, *, most: int, ttl_seconds: float, drain_seconds: float, device: torch.device | None = None
    ) -> None:
        self.meters = StreamMetrics(lambda: len(self._active), device)
        self._most, self._ttl, self._drain_seconds = most, ttl_seconds, drain_seconds
        self._active: set[Session] = set()
        self._parked: dict[str, Session] = {}
        self._draining = False

    def __len__(self) -> int:
        """Streams that are served now."""
        return len(self._active)

    @property
    def parked(self) -> int:
        """Streams that may come back."""
        return len(self._parked)

    def open(self, plan: Plan) -> Session:
        """Admit a new stream. Raises StreamError where there is no room, or the server is stopping."""
        self._admit()
        token = secrets.token_urlsafe(24) if plan.resumable else ""
        return self._activate(Session(plan, token, asyncio.get_running_loop().create_future(), meters=self.meters))

    async def resume(self, plan: Plan, token: str) -> Session:
        """Admit a stream that was there before. Raises StreamError where it is not known (any more), or differs."""
        for session in list(self._active):
            if token and secrets.compare_digest(session.token, token):
                await self._take_over(session)
        session = self._parked.get(token)  # type: ignore[assignment]
        if session is None:
            raise StreamError(
                StatusCode.FAILED_PRECONDITION,
                f"there is no such session; one is kept for {self._ttl:g} s (SKIPVSR_GRPC_SESSION_SECONDS) after its "
                "connection broke, and not over a restart of the server; start a new stream",
                reason="SESSION_LOST",
                field="config.resume.session_token",
            )
        if session.plan != plan:
            raise StreamError(
                StatusCode.FAILED_PRECONDITION,
                "the config is not that of the session; send the same one, or start a new stream",
                reason="SESSION_DIFFERS",
                field="config",
            )
        self._admit()
        del self._parked[token]
        if session.expiry is not None:
            session.expiry.cancel()
        session.stop = asyncio.get_running_loop().create_future()
        session.released = asyncio.Event()
        return self._activate(session)

    def release(self, session: Session, *, finished: bool) -> None:
        """A stream's connection is over; unless the stream is `finished`, it may come back for a while."""
        self._active.discard(session)
        session.released.set()
        if not self._active:  # so that nobody waits for it
            give_back()
        if finished or not session.token or self._draining:
            return
        while len(self._parked) >= self._most:  # the oldest first
            self._forget(next(iter(self._parked)))
        self._parked[session.token] = session
        session.expiry = asyncio.get_running_loop().call_later(self._ttl, self._forget, session.token)

    async def drain(self) -> None:
        """Take no more streams, let those that are there end by themselves for a while, then end them."""
        self._draining = True
        for token in list(self._parked):
            self._forget(token)
        waiting = [asyncio.ensure_future(session.released.wait()) for session in self._active]
        if waiting:
            log.info("waiting up to %g s for %d streams to end", self._drain_seconds, len(waiting))
            await asyncio.wait(waiting, timeout=self._drain_seconds)
        for session in list(self._active):
            self._end(session, stopping())
        if waiting:
            await asyncio.wait(waiting, timeout=_HANDOVER_SECONDS)
        for task in waiting:
            task.cancel()

    def _admit(self) -> None:
        if self._draining:
            raise stopping()
        if len(self._active) >= self._most:
            raise StreamError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the device serves {self._most} streams, the most that SKIPVSR_GRPC_MAX_STREAMS allows",
                reason="TOO_MANY_STREAMS",
                retry_after=5,
            )

    def _activate(self, session: Session) -> Session:
        self._active.add(session)
        return session

    async def _take_over(self, session: Session) -> None:
        """The client is back before its old connection was noticed to be dead."""
        self._end(
            session,
            StreamError(StatusCode.ABORTED, "the session went on on another connection", reason="SESSION_TAKEN_OVER"),
        )
        async with asyncio.timeout(_HANDOVER_SECONDS):
            await session.released.wait()

    def _forget(self, token: str) -> None:
        session = self._parked.pop(token, None)
        if session is not None and session.expiry is not None:
            session.expiry.cancel()

    @staticmethod
    def _end(session: Session, error: StreamError) -> None:
        if not session.stop.done():
            session.stop.set_result(error)
