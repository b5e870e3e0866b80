"""The output of the pipeline: `Started`, then `Working` and `ChunkDone` in turn, then `Finished` or `Stopped`.

A part of a video ends with `PartDone` instead of `Finished`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from jobs.schema import JobMetrics, Progress
from media.probe import MediaInfo
from media.spec import OutputSpec
from model.routing import RoutingReport


@dataclass(frozen=True)
class Started:
    """The pipeline has probed the source and loaded the checkpoint; the first chunk follows."""

    info: MediaInfo
    spec: OutputSpec
    progress: Progress
    resumed: bool
    """Whether the pipeline resumes from a checkpoint."""
    warnings: list[str]


@dataclass(frozen=True)
class Working:
    """Frames are in work. The event comes several times a second, also while the result is written."""

    progress: Progress
    """Progress with the frames in work."""
    checkpoint_seconds: float | None
    """Estimated seconds until the chunk in the network is checkpointed."""


@dataclass(frozen=True)
class ChunkDone:
    """A chunk is encoded and checkpointed."""

    number: int
    frames: int
    seconds: float
    """Seconds of computation in the network."""
    progress: Progress
    metrics: JobMetrics
    stages: dict[str, float]
    """Seconds of this chunk in each stage: decode, model, encode."""
    reports: list[RoutingReport]
    """One report per frame of the chunk."""


@dataclass(frozen=True)
class Stopped:
    """The caller set `stop` or `halt`. All encoded chunks are checkpointed; the remaining chunks are not computed."""

    progress: Progress
    metrics: JobMetrics


@dataclass(frozen=True)
class PartDone:
    """All chunks of a part of the video are encoded and checkpointed."""

    progress: Progress
    metrics: JobMetrics


@dataclass(frozen=True)
class Finished:
    """The complete result is at `path` in the working folder; the caller publishes the file."""

    path: Path
    spec: OutputSpec
    progress: Progress
    metrics: JobMetrics
    warnings: list[str]
    frame_rate: Fraction | None
    """Average frames a second of the result. None: it has no length."""


Event = Started | Working | ChunkDone | Stopped | PartDone | Finished
