"""Routing: the numbers that decide which work to skip, and the report of the skipped work of a frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError

WHOLE_FRAMES = 1 << 30
"""Crop overhead with which no crop pays, nor any gate."""


@dataclass(frozen=True)
class Preset:
    """Numbers of the router. Levels are 0 to 255; pixels are feature pixels, which at x4 are LR pixels."""

    mask: bool = True
    """Reuse tiles that did not change since their last computation."""
    luma: float = 1.25
    """A tile has changed if its mean absolute difference of luma exceeds this many levels."""
    chroma: float = 2.0
    """Also if the mean absolute difference of Cb or Cr exceeds this many levels."""
    drift: float = 0.75
    """Also if the mean luma of its quarters changed by more than this on average: slow motion."""
    detail: float = 5.0
    """Also if the mean absolute difference of luma over one quarter exceeds this: a small moving detail."""
    reach: int = 1
    """Distance in quarters (4 pixels) around a small moving detail that also counts as changed."""
    halo: int = 2
    """Pixels around a crop that are computed and discarded."""
    refresh: int = 1000
    """Most frames between two computations of a tile, changed or not. Shorter periods make the network's drift on still
    pictures visible."""
    overhead: int = 1300
    """Crop overhead: fixed cost of one more crop, in pixels of dense work (`model.mask.crop_cost`). Frames smaller
    than three times this number run densely; with `WHOLE_FRAMES` frames of every size are computed or reused whole."""
    dense_above: float = 0.85
    """Fraction of the dense cost above which a frame runs densely."""
    backward_every: int = 1
    """The backward trunk runs in every n-th frame of a scene. In the other frames, the trunk rests: the
    features are the next frame's, aligned by the flow."""
    negated_flow: bool = False
    """Estimate the flow from each frame to the frame before alone. The backward branch takes its negative."""
    error_budget: float = 0.0
    """Error that skipping a group of blocks of the forward branch may add to a tile, as a fraction of the frame's mean
    squared error; a higher budget skips more. 0 skips nothing, nor does a model without an estimator."""
    backward_error_budget: float = 0.0
    """Error budget for the groups of the backward branch."""
    tail_error_budget: float = 0.0
    """Error budget for skipping the upsampler."""


OFF = Preset(mask=False)
PRESETS = {
    "off": OFF,
    "balanced": Preset(negated_flow=True, error_budget=0.04, backward_error_budget=0.2),
    "fast": Preset(
        luma=2.0,
        drift=1.2,
        detail=6.0,
        backward_every=2,
        negated_flow=True,
        error_budget=0.08,
        backward_error_budget=0.3,
        tail_error_budget=0.15,
    ),
}
_KINDS: dict[type[float], str] = {bool: "true or false", int: "a whole number", float: "a number"}
TILE = 8
"""Side of a tile in feature pixels (`model.network.folding`)."""


def preset(name: str, **changes: float) -> Preset:
    """Return the preset `name` with some of its numbers changed. Raises ModelError for an unknown name or number."""
    if name not in PRESETS:
        raise ModelError(f"unknown routing {name!r}; use one of: {', '.join(PRESETS)}")
    kinds: dict[str, type[float]] = {f.name: type(getattr(OFF, f.name)) for f in fields(Preset)}
    numbers: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in kinds:
            raise ModelError(f"unknown number of a routing: {key}; use one of: {', '.join(kinds)}")
        if not math.isfinite(value) or kinds[key](value) != value:
            raise ModelError(f"routing: {key} must be {_KINDS[kinds[key]]}")
        numbers[key] = kinds[key](value)
    return replace(PRESETS[name], **numbers)


@dataclass(frozen=True)
class RoutingReport:
    """Work skipped in one emitted frame. A unit is a pair (tile, block): a residual block of a branch on a tile."""

    units_total: int
    """Units of the dense network, including a share of the look-ahead."""
    units_reused: int
    """Units not run because the inter-frame mask reused the tile of the neighbouring frame."""
    units_skipped: int
    """Units not run because a gate skipped the block, or because the backward trunk rested in the frame."""
    tiles_reused: int
    """Tiles of the HR frame reused from the frame before."""
    seconds: float
    """Wall-clock seconds of this frame: an equal share of its chunk. Steps of the same moment share its time."""
    dense_seconds: float = 0.0
    """Seconds of the dense network for such a frame, measured on this machine under the same load."""
    left_out: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((1, 1), np.float32), repr=False, compare=False
    )
    """[rows, columns] of tiles: fraction of the units of both branches that was not run in this frame. Units skipped by
    gates count as spread evenly over the computed tiles."""

    @property
    def units_left_out(self) -> int:
        """Units not run: reused and skipped together."""
        return self.units_reused + self.units_skipped

    @property
    def skip_ratio(self) -> float:
        """Fraction of the units not run."""
        return self.units_left_out / self.units_total if self.units_total else 0.0
