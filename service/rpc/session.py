"""A live stream's session: state that survives a broken connection, and figures for the summary."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, fields, replace

import torch
from grpc import StatusCode
from torch import Tensor

from model.engine.state import RecurrentState
from model.routing import RoutingReport
from service.rpc.errors import StatusError
from service.rpc.latency import LatencyHistogram
from service.rpc.stream_config import StreamConfig
from service.rpc.stream_memory import MAX_SNAPSHOT_BYTES, MAX_SNAPSHOTS, StreamCost
from service.rpc.stream_metrics import StreamMetrics


@dataclass(frozen=True)
class FrameTicket:
    """A frame's metadata. The ticket follows the frame through decoder, network and encoder."""

    sequence: int
    pts: int
    arrived: float
    """Arrival time by the monotonic clock, in seconds."""
    scene_start: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A point from which a stream can resume. Immutable, like the recurrent state."""

    state: RecurrentState | None = None
    pending: tuple[FrameTicket, ...] = ()
    """Tickets of the look-ahead frames in the state."""
    consumed: int | None = None
    """Sequence number of the last input frame in the state; None before the first."""
    answered: int | None = None
    """Sequence number of the last answer before this point; None before the first."""

    def to(self, device: torch.device) -> Snapshot:
        """Return the snapshot with its state on another device."""
        return self if self.state is None else replace(self, state=self.state.to(device))

    @property
    def nbytes(self) -> int:
        """Memory of the state in bytes."""
        if self.state is None:
            return 0
        values = (getattr(self.state, f.name) for f in fields(self.state))
        return sum(value.nbytes for value in values if isinstance(value, Tensor))


@dataclass
class StreamTotals:
    """Figures of a stream, summed over all its connections."""

    frames: int = 0
    units: int = 0
    left_out: int = 0
    """Units not computed: reused by the inter-frame mask, or skipped by gates."""
    reused: int = 0
    """Part of `left_out` reused by the inter-frame mask."""
    scenes: int = 0
    model_seconds: float = 0.0
    dense_seconds: float = 0.0
    """Estimated time of the dense network for the same frames."""
    latencies: LatencyHistogram = field(default_factory=LatencyHistogram)
    _counted: int | None = None
    """Sequence number of the last counted frame."""

    def add(self, ticket: FrameTicket, report: RoutingReport, latency: float) -> bool:
        """Count an answered frame. Returns False for a frame that was counted before a resumption."""
        if self._counted is not None and ticket.sequence <= self._counted:
            return False
        self._counted = ticket.sequence
        self.frames += 1
        self.units += report.units_total
        self.left_out += report.units_left_out
        self.reused += report.units_reused
        self.scenes += ticket.scene_start
        self.model_seconds += report.seconds
        self.dense_seconds += report.dense_seconds
        self.latencies.add(latency)
        return True


@dataclass(eq=False)
class Session:
    """A stream, independent of its current connection."""

    config: StreamConfig
    token: str
    stop: asyncio.Future[StatusError]
    """Set by the registry to end the current connection with this error."""
    metrics: StreamMetrics
    cost: StreamCost
    """Memory of the connected stream."""
    owner: str = ""
    """Id of the API key that may resume the stream."""
    snapshots: deque[Snapshot] = field(default_factory=lambda: deque([Snapshot()]))
    totals: StreamTotals = field(default_factory=StreamTotals)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    expiry: asyncio.TimerHandle | None = None
    on_host: bool = False
    """Whether the snapshots of a disconnected stream have left the GPU for main memory."""

    @property
    def parked_cost(self) -> StreamCost:
        """Memory of the disconnected stream."""
        return StreamCost(sum(snapshot.nbytes for snapshot in self.snapshots))

    def remember(self, snapshot: Snapshot) -> None:
        """Add a snapshot, if the stream can resume. The oldest are dropped beyond the limits of number and memory."""
        if not self.token:
            return
        self.snapshots.append(snapshot)
        most = min(MAX_SNAPSHOTS, max(1, MAX_SNAPSHOT_BYTES // max(1, snapshot.nbytes)))
        while len(self.snapshots) > most:
            self.snapshots.popleft()

    def rewind(self, last_received: int | None) -> Snapshot:
        """Return the newest snapshot at or before an answer, and drop all later ones.

        Raises StatusError if that snapshot is no longer kept.
        """
        while self.snapshots:
            answered = self.snapshots[-1].answered
            if answered is None or (last_received is not None and answered <= last_received):
                return self.snapshots[-1]
            self.snapshots.pop()
        raise StatusError(
            StatusCode.FAILED_PRECONDITION,
            f"the state after answer {last_received} is no longer kept; start a new stream",
            reason="SESSION_LOST",
            field="config.resume.last_received",
        )
