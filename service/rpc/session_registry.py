"""Registry of sessions: connected streams, and disconnected streams that may resume for a while."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from operator import is_
from typing import Final

import torch
from grpc import StatusCode

from model.engine.memory import give_back
from model.engine.one_thread import here_or_there
from service.rpc.errors import StatusError, stopping
from service.rpc.session import Session, Snapshot
from service.rpc.stream_config import StreamConfig
from service.rpc.stream_memory import StreamCost, total
from service.rpc.stream_metrics import StreamMetrics

log = logging.getLogger(__name__)

_HOST: Final = torch.device("cpu")
_HANDOVER_SECONDS: Final = 5.0
"""Seconds for a connection to end after it was told to stop."""


class SessionRegistry:
    """All sessions of a server. Not thread-safe: use it in the event loop's thread only."""

    def __init__(
        self,
        *,
        most: int,
        memory: int,
        ttl_seconds: float,
        drain_seconds: float,
        device: torch.device | None = None,
        host_memory: int = 0,
    ) -> None:
        """Create a registry.

        Args:
            most: maximum number of connected streams, and of disconnected ones.
            memory: maximum bytes of all streams together.
            ttl_seconds: time for which a disconnected stream can resume.
            drain_seconds: time that streams get to end by themselves at shutdown.
            device: device of the networks. States of disconnected streams leave a GPU for main memory.
            host_memory: maximum bytes of main memory for these states; unused without a GPU.
        """
        self._device = device or _HOST
        self.metrics = StreamMetrics(lambda: len(self._active), self._device)
        self.metrics.watch_parked(lambda: len(self._parked), self._host_bytes)
        self._host_memory = host_memory
        self._moves: set[asyncio.Task[None]] = set()
        self._most, self._memory, self._ttl, self._drain_seconds = most, memory, ttl_seconds, drain_seconds
        self._active: set[Session] = set()
        self._parked: dict[str, Session] = {}
        self._draining = False
        self.room = memory
        """Bytes that the networks may take now: all but what the streams hold. Any thread may read the number."""

    def __len__(self) -> int:
        """Number of connected streams."""
        return len(self._active)

    def open(self, config: StreamConfig, cost: Callable[[StreamConfig], StreamCost], owner: str = "") -> Session:
        """Create a session for a new stream, with fewer chunks ahead, or a shorter chunk, if memory is short.

        Args:
            config: the stream's config.
            cost: estimates the stream's memory.
            owner: id of the API key that may resume the stream.

        Raises StatusError if the server is full or stopping.
        """
        self._check_capacity()
        ahead = [replace(config, ahead=ahead) for ahead in range(config.ahead, 0, -1)]
        shorter = [replace(config, ahead=0, chunk=chunk) for chunk in range(config.chunk, 0, -1)]
        costs = [(each, cost(each)) for each in (*ahead, *shorter)]
        self._make_room(costs[-1][1])
        fitting, found = next(pair for pair in costs if self._fits(pair[1]))
        token = secrets.token_urlsafe(24) if config.resumable else ""
        stop = asyncio.get_running_loop().create_future()
        session = Session(fitting, token, stop, self.metrics, found, owner)
        self._active.add(session)
        self._count_room()
        return session

    async def resume(self, config: StreamConfig, token: str, owner: str = "") -> Session:
        """Reconnect a key's session. Raises StatusError if it is unknown, has expired, or has another config."""
        for session in list(self._active):
            if token and secrets.compare_digest(session.token.encode(), token.encode()) and session.owner == owner:
                await self._disconnect(session)
        parked = self._matching(config, token, owner)
        self._check_capacity()
        self._make_room(parked.cost, resuming=parked)
        del self._parked[token]
        if parked.on_host:  # the network's next call moves the state
            self.metrics.moved.labels("device").inc()
            parked.on_host = False
        if parked.expiry is not None:
            parked.expiry.cancel()
        parked.stop = asyncio.get_running_loop().create_future()
        parked.released = asyncio.Event()
        self._active.add(parked)
        self._count_room()
        return parked

    def release(self, session: Session, *, finished: bool) -> None:
        """Disconnect a session. Unless its stream is `finished`, the session can be resumed for a while."""
        self._active.discard(session)
        session.released.set()
        if not self._active:  # no stream has to wait for the allocator
            give_back()
        if finished or not session.token or self._draining:
            self._count_room()
            return
        self._parked[session.token] = session
        self._count_room()
        session.expiry = asyncio.get_running_loop().call_later(self._ttl, self._forget, session.token)
        while len(self._parked) > self._most:
            self._forget(self._superfluous())
        if self._device.type != _HOST.type:
            move = asyncio.get_running_loop().create_task(self._move_to_host(session))
            self._moves.add(move)
            move.add_done_callback(self._moves.discard)

    async def _move_to_host(self, session: Session) -> None:
        """Move the snapshots of a disconnected stream to main memory, unless the stream resumes meanwhile."""
        before = list(session.snapshots)

        def moved() -> list[Snapshot]:
            return here_or_there(self._device, lambda: [snapshot.to(_HOST) for snapshot in before])

        try:
            after = await asyncio.to_thread(moved)
        except (RuntimeError, MemoryError) as error:  # the stream's next frame meets the same failure
            log.warning("the state of a disconnected stream stays on the GPU: %s", error)
            return
        same = len(before) == len(session.snapshots) and all(map(is_, before, session.snapshots))
        if self._parked.get(session.token) is not session or not same:
            return
        session.snapshots, session.on_host = deque(after), True
        self._count_room()
        self.metrics.moved.labels("host").inc()
        while self._host_bytes() > self._host_memory:
            self._forget(self._superfluous(on_host=True))

    def _host_bytes(self) -> int:
        """Bytes of main memory that states from the GPU take."""
        return sum(total([session.parked_cost]) for session in self._parked.values() if session.on_host)

    async def drain(self, because: StatusError | None = None) -> None:
        """Refuse new streams, wait for connected streams to end, then end the rest with UNAVAILABLE.

        If no stream can go on, `because` ends all at once.
        """
        self._draining = True
        for token in list(self._parked):
            self._forget(token)
        waiting = [asyncio.ensure_future(session.released.wait()) for session in self._active]
        if waiting and because is None:
            log.info("waiting up to %g s for %d streams to end", self._drain_seconds, len(waiting))
            await asyncio.wait(waiting, timeout=self._drain_seconds)
        for session in list(self._active):
            self._stop(session, because or stopping())
        if waiting:
            await asyncio.wait(waiting, timeout=_HANDOVER_SECONDS)
        for task in waiting:
            task.cancel()

    def _count_room(self) -> None:
        """Update `room` after a change of the streams."""
        held = sum(session.cost.held for session in self._active)
        parked = sum(session.parked_cost.held for session in self._parked.values() if not session.on_host)
        self.room = self._memory - held - parked

    def _check_capacity(self) -> None:
        if self._draining:
            raise stopping()
        if len(self._active) >= self._most:
            raise StatusError(
                StatusCode.RESOURCE_EXHAUSTED,
                f"the server has reached its limit of {self._most} streams (SKIPVSR_GRPC_MAX_STREAMS)",
                reason="TOO_MANY_STREAMS",
                retry_after=5,
            )

    def _fits(self, cost: StreamCost, resuming: Session | None = None) -> bool:
        """Whether one more stream fits into the memory."""
        connected = [session.cost for session in self._active]
        parked = [
            session.parked_cost for session in self._parked.values() if session is not resuming and not session.on_host
        ]
        return total([*connected, *parked, cost]) <= self._memory

    def _make_room(self, cost: StreamCost, resuming: Session | None = None) -> None:
        """Forget disconnected streams until a stream fits. Raises StatusError if that is in vain."""
        while not self._fits(cost, resuming):
            token = self._superfluous(resuming, on_host=False)
            if token is None:
                needed = (total([cost]) + 999_999) // 1_000_000
                raise StatusError(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"the stream needs about {needed:,} MB of memory; {len(self._active)} other streams are open, and "
                    f"all together may take {self._memory // 1_000_000:,} MB (SKIPVSR_GRPC_MEMORY_BYTES); try again "
                    "later, or use less look-ahead or smaller frames",
                    reason="OUT_OF_MEMORY",
                    retry_after=5,
                )
            self._forget(token)

    def _superfluous(self, resuming: Session | None = None, *, on_host: bool | None = None) -> str | None:
        """Token of the oldest disconnected stream of the key with the most: nobody pushes out all others' streams.

        `on_host` counts only streams whose state is in main memory or is not.
        """
        of = {
            token: session
            for token, session in self._parked.items()  # the oldest comes first
            if session is not resuming and on_host in (None, session.on_host)
        }
        owners, tokens = Counter(session.owner for session in of.values()), list(of)
        return max(tokens, key=lambda token: owners[self._parked[token].owner], default=None)

    def _matching(self, config: StreamConfig, token: str, owner: str) -> Session:
        session = self._parked.get(token)
        if session is None or session.owner != owner:
            raise StatusError(
                StatusCode.FAILED_PRECONDITION,
                f"the session is unknown: sessions expire {self._ttl:g} s after a disconnection "
                "(SKIPVSR_GRPC_SESSION_SECONDS) and at a restart of the server; start a new stream",
                reason="SESSION_LOST",
                field="config.resume.session_token",
            )
        if session.config != config:
            raise StatusError(
                StatusCode.FAILED_PRECONDITION,
                "the config differs from the session's config; send the same config, or start a new stream",
                reason="SESSION_DIFFERS",
                field="config",
            )
        return session

    async def _disconnect(self, session: Session) -> None:
        """End a session's old connection, whose failure the server has not noticed yet."""
        error = StatusError(
            StatusCode.ABORTED, "the session was resumed on another connection", reason="SESSION_TAKEN_OVER"
        )
        self._stop(session, error)
        async with asyncio.timeout(_HANDOVER_SECONDS):
            await session.released.wait()

    def _forget(self, token: str | None) -> None:
        session = self._parked.pop(token, None) if token else None
        self._count_room()
        if session is not None and session.expiry is not None:
            session.expiry.cancel()

    @staticmethod
    def _stop(session: Session, error: StatusError) -> None:
        if not session.stop.done():
            session.stop.set_result(error)
