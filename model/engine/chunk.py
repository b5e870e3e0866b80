"""The chunk of a stream: the request, the planned chunk, and the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.engine.clock import Seconds
from model.engine.execute import is_dense
from model.engine.state import RecurrentState
from model.engine.work import Observer
from model.engine.yuv import YuvFormat
from model.gates.skipping import Skipper
from model.mask.plan import ChunkPlan
from model.routing import Preset, RoutingReport

Frames = NDArray[np.uint8] | NDArray[np.uint16]
Receiver = Callable[[Frames], None]
"""Receives an HR frame [s H, s W, 3], a view of `ChunkResult.frames`, as soon as the frame is complete. The calls come
in order, from several threads."""


@dataclass(frozen=True)
class Request:
    """The arguments of `Upscaler.forward` for one stream."""

    frames: Frames
    """[T, H, W, 3] next frames."""
    state: RecurrentState | None
    lookahead: int
    last: bool
    routing: str | Preset = "off"
    yuv: YuvFormat | None = None
    """Format of the upscaled frames; None: RGB."""
    observer: Observer | None = None
    """Follows the steps of a chunk that runs alone, in `forward_many` and `begin_many`."""


@dataclass(frozen=True)
class Scene:
    """The frames of a scene within a chunk, with the plan."""

    frames: Tensor
    """[T, H, W, 3]; the first `emit` are emitted."""
    folded: Tensor
    """The frames, folded (`model.network.folding`): [T, h, w, 3 f f]."""
    emit: int
    before: RecurrentState
    """State before the first frame; in a planned chunk perhaps without features and HR frame."""
    index: int
    """Frames since the start of the scene."""
    plan: ChunkPlan
    gates: Skipper | None


@dataclass(frozen=True)
class Chunk:
    """A planned request."""

    stored: Tensor
    """[T, H, W, 3] pending frames followed by the new ones."""
    emit: int
    """Number of frames to emit."""
    last: bool
    before: RecurrentState
    """State before the first frame, perhaps without features and HR frame."""
    scene_cuts: list[int]
    """Indices into `stored`."""
    scenes: list[Scene]
    planning: Seconds
    """Time of planning."""
    yuv: YuvFormat | None = None
    """Format of the upscaled frames; None: RGB."""

    @property
    def planned_state(self) -> RecurrentState:
        """The state after the chunk, without features and HR frame. Planning of the next chunk needs no more."""
        pending = self.stored[self.emit :].clone()
        if not self.scenes:
            return replace(self.before, pending=pending, feat=None, hr=None)
        scene = self.scenes[-1]
        return RecurrentState(
            self.before.model,
            pending,
            last=scene.frames[scene.emit - 1].clone(),
            reference=scene.plan.reference,
            index=torch.tensor(scene.index + scene.emit),
        )

    @property
    def batch_key(self) -> object:
        """Equal for chunks that can share a batch; None for a chunk that must run alone."""
        shape, dtype = self.stored.shape, self.stored.dtype
        dense = all(is_dense(scene.plan, *scene.folded.shape[1:3]) and not scene.gates for scene in self.scenes)
        steps = tuple(
            (len(scene.frames), scene.emit, scene.before.last is None, scene.plan.negated_flow) for scene in self.scenes
        )
        return (shape, dtype, steps) if steps and dense else None


@dataclass(frozen=True)
class ChunkResult:
    """The result of one call of `Upscaler.forward`."""

    frames: Frames
    """[T', s H, s W, 3] in the number format of the input; or samples [T', n] of `Request.yuv`."""
    state: RecurrentState
    reports: list[RoutingReport]
    """One report for each emitted frame."""
    scene_cuts: list[int] = field(default_factory=list)
    """Indices into `frames` of the first frames of new scenes."""
    batch_size: int = 1
    """Number of streams in the batch, this stream included."""

    @property
    def dense_seconds(self) -> float:
        """Seconds of the dense network for the frames, measured on the same machine under the same load."""
        return sum(report.dense_seconds for report in self.reports)

    @property
    def seconds(self) -> float:
        """Seconds of computing the frames, without calibration."""
        return sum(report.seconds for report in self.reports)
