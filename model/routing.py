"""Routing: which work a preset lets the engine leave out, and the report of what it left out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError


@dataclass(frozen=True)
class Preset:
    """Numbers of the router. Levels are of 255; pixels are LR pixels."""

    mask: bool = True
    """Reuse tiles that did not change since they were last computed."""
    luma: float = 1.25
    """A tile has changed where the mean |difference| of luma over it is above this many levels,"""
    chroma: float = 2.0
    """or that of a colour difference (Cb, Cr) above this,"""
    drift: float = 0.75
    """or the mean luma of its quarters changed by more than this, on average: something moves slowly,"""
    detail: float = 5.0
    """or that of luma over one of its quarters above this: a small thing moves."""
    reach: int = 1
    """Quarters (4 pixels) around such a small thing that count as changed too: the network sees the neighbourhood."""
    halo: int = 2
    """LR pixels around a crop that are computed and thrown away."""
    refresh: int = 1000
    """A tile is computed again after at most this many frames, whether it changed or not. More often, the network's
    drift on still pictures comes through."""
    overhead: int = 1300
    """What one more crop costs, in LR pixels of dense work (`model.mask.crop_cost`). Frames of less than three
    times that run densely."""
    dense_above: float = 0.85
    """Fraction of the dense cost above which a frame is computed densely."""
    confidence: float = 0.0
    """A group of blocks is skipped in a tile where the estimator expects that to add less than this fraction of the
    frame's mean squared error; 0: never, as where a model has no estimator."""
    tail_confidence: float = 0.0
    """The same of the upsampler."""


OFF = Preset(mask=False)
PRESETS = {
    "off": OFF,
    "balanced": Preset(),
    "fast": Preset(luma=2.0, drift=1.2, detail=6.0, confidence=0.07, tail_confidence=0.15),
}
_KINDS: dict[type[float], str] = {bool: "true or false", int: "a whole number", float: "a number"}
TILE = 8
"""Side of a tile in LR pixels."""


def preset(name: str, **changes: float) -> Preset:
    """The preset of that name, with some of its numbers changed. Raises ModelError where there is none."""
    if name not in PRESETS:
        raise ModelError(f"there is no routing {name!r}; there are: {', '.join(PRESETS)}")
    kinds: dict[str, type[float]] = {f.name: type(getattr(OFF, f.name)) for f in fields(Preset)}
    numbers: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in kinds:
            raise ModelError(f"routing has no such number: {key}; it has {', '.join(kinds)}")
        if not math.isfinite(value) or kinds[key](value) != value:
            raise ModelError(f"routing: {key} must be {_KINDS[kinds[key]]}")
        numbers[key] = kinds[key](value)
    return replace(PRESETS[name], **numbers)


@dataclass(frozen=True)
class RoutingReport:
    """What was left out of one emitted frame. Units are (tile, block): a residual block of a branch on a tile."""

    units_total: int
    """Of the dense network, the look-ahead's share included."""
    units_reused: int
    """Not run because the tile was taken over from the neighbouring frame (the inter-frame mask)."""
    units_skipped: int
    """Not run because the estimator expected too little of the block there."""
    tiles_reused: int
    """Tiles of the HR frame that were taken over from the frame before."""
    seconds: float
    """Wall-clock time of this frame: its share of the chunk's."""
    dense_seconds: float = 0.0
    """What the dense network takes for such a frame, measured on this machine, under the same load."""
    left_out: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((1, 1), np.float32), repr=False, compare=False
    )
    """[rows, columns] of tiles: the fraction of this frame's units, of both branches, that was not run there. Where the
    tile is computed, what the estimator skipped counts as evenly spread."""

    @property
    def units_left_out(self) -> int:
        """Units that were not run, for either reason."""
        return self.units_reused + self.units_skipped

    @property
    def skip_ratio(self) -> float:
        """Fraction of the units that were not run."""
        return self.units_left_out / self.units_total if self.units_total else 0.0
