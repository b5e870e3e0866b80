"""A chunk of a stream: as it is asked for, on its way through the network, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.engine.execute import is_dense
from model.engine.state import RecurrentState
from model.gates.skipping import Skipper
from model.mask.plan import ChunkPlan
from model.routing import Preset, RoutingReport

Frames = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Request:
    """A stream's next frames, with what `Upscaler.forward` takes beside them."""

    frames: Frames
    state: RecurrentState | None
    lookahead: int
    last: bool
    routing: str | Preset = "off"


@dataclass(frozen=True)
class Scene:
    """Frames of one scene, of which the first `emit` are emitted, and what comes to the network from `before`."""

    frames: Tensor
    emit: int
    before: RecurrentState
    index: int
    plan: ChunkPlan
    gates: Skipper | None


@dataclass(frozen=True)
class Chunk:
    """A request on its way through the network."""

    stored: Tensor
    """[T, H, W, 3] the frames held back and the new ones."""
    emit: int
    last: bool
    before: RecurrentState
    cuts: list[int]
    scenes: list[Scene]
    clocks: NDArray[np.float64]
    """What it took so far, by `Upscaler._clocks`."""

    @property
    def kind(self) -> object:
        """Equal for chunks that can be one batch; None where this one has to go alone."""
        shape, dtype = self.stored.shape, self.stored.dtype
        dense = all(is_dense(scene.plan, *shape[1:3]) and not scene.gates for scene in self.scenes)
        steps = tuple((len(scene.frames), scene.emit, scene.before.last is None) for scene in self.scenes)
        return (shape, dtype, steps) if steps and dense else None


@dataclass(frozen=True)
class ChunkResult:
    """What one call of `Upscaler.forward` gives back."""

    frames: Frames
    """[T', 4 H, 4 W, 3] in the type of the input."""
    state: RecurrentState
    reports: list[RoutingReport]
    """One for each emitted frame."""
    cuts: list[int] = field(default_factory=list)
    """Indices into `frames` at which a new scene starts."""
    together: int = 1
    """Streams whose chunks went through the network with this one, itself included."""

    @property
    def dense_seconds(self) -> float:
        """What the dense network takes for these frames, measured on this machine, under the same load."""
        return sum(report.dense_seconds for report in self.reports)

    @property
    def seconds(self) -> float:
        """What these frames took, calibration not counted."""
        return sum(report.seconds for report in self.reports)
