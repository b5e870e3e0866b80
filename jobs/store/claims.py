"""A worker's claim on a job, and the heartbeats that keep the claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jobs.schema import Request


@dataclass(frozen=True)
class Claim:
    """A worker's claim on a job, proved by the fencing token."""

    job_id: str
    token: int


@dataclass(frozen=True)
class HeartbeatReply:
    """Reply to a worker's heartbeat."""

    held: bool
    """Whether the job still belongs to the worker."""
    request: Request | None
    """The user's request to the job."""


class HeartbeatCount(NamedTuple):
    """Fencing token of a running job, and the number of heartbeats of its worker."""

    token: int
    beats: int
