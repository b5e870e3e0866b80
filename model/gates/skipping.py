"""Run a trunk or the upsampler with gates: the surrogate replaces work that the estimator expects to change little.

Decisions depend only on the features of the current frame: chunk borders do not matter. The first step of the backward
branch, at the end of each chunk, is the exception and runs everything: these features know a single frame, heads
underestimate the error, and earlier frames inherit the error. Tiles beside the edge of a letterbox bar also run
(`model.gates.letterbox`).

A group of blocks runs in the cells (`model.gates.cells`) whose expected error outweighs the time: a batch of crops,
pasted into the surrogate's result. A pixel of the upsampler costs far more than a call. The upsampler therefore runs in
segments of bands of tiles (`model.mask.rectangles.segments`). If that would cost about as much as the whole frame, the
whole frame runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.gates.cells import cell_starts, crop_size, run_cells
from model.gates.estimator import Estimator, Gate
from model.gates.letterbox import LetterboxEdges, letterbox_edges
from model.gates.traversal import run_gated
from model.mask.rectangles import Cost, Mask, Rectangle, segments
from model.network.basicvsr import BasicVSR, Blocks, Branch, TrunkFunction
from model.network.output import write_pixels
from model.routing import TILE, Preset

TAIL_HALO, TAIL_OVERHEAD = 2, 200
"""Halo and overhead of a crop of the upsampler, in pixels. One of its pixels costs as much as one of a whole trunk."""
TAIL_BAND = 3
"""Rows of tiles in a band of the upsampler."""
CELL, CELL_HALO = 40, 1
"""Approximate side and halo of a trunk's cells in pixels. Smaller cells skip hardly more, and take longer.
Without a halo, seams cost PSNR; two pixels or more gain nothing (lab notebook)."""
MOST = 3.0
"""Cap of the log price of a tile, in computed tiles: no single tile decides for its cell."""


@dataclass
class Skipper:
    """Runs the trunks and the upsampler of one chunk with the gates of an estimator, and counts the skipped units."""

    network: BasicVSR
    estimator: Estimator
    preset: Preset
    edges: Sequence[LetterboxEdges | None]
    """Letterbox edges of each frame of the chunk."""
    shares: dict[str, list[float]] = field(default_factory=lambda: {"backward": [], "forward": []})
    """By branch and frame, in order of computation: fraction of the computed units that was skipped."""
    _done: float = 0.0
    _skipped: float = 0.0

    def trunk(self, branch: Branch, frame: int, rectangle: Rectangle) -> TrunkFunction:
        """Return the gated trunk of a branch for a rectangle of frame number `frame` of the chunk."""
        return partial(self._trunk, branch, self.edges[frame], rectangle)

    def gates(self, branch: Branch, rectangle: Rectangle) -> bool:
        """Check whether the trunk of a branch passes its gates on a rectangle of the current frame."""
        begins = branch == "backward" and not self.shares[branch]
        return self._budget(branch) > 0 and not begins and not _too_small(rectangle.area, self.preset)

    @property
    def gates_tail(self) -> bool:
        """Whether the upsampler has a gate that works."""
        return self.estimator.tail_gate is not None and self.preset.tail_error_budget > 0

    def end_frame(self, branch: Branch) -> None:
        """Record the skipped share of a frame, after all of its crops went through the branch."""
        self.shares[branch].append(self._skipped / self._done if self._done else 0.0)
        self._done = self._skipped = 0.0

    def _trunk(self, branch: Branch, edges: LetterboxEdges | None, rectangle: Rectangle, x: Tensor) -> Tensor:
        trunk = self.network.trunk(branch)
        self._done += len(trunk.blocks) * rectangle.area
        groups = self.estimator.groups(branch) if self.gates(branch, rectangle) else []
        return run_gated(trunk, groups, x, partial(self._group, self._budget(branch), edges, rectangle))

    def _budget(self, branch: Branch) -> float:
        return self.preset.error_budget if branch == "forward" else self.preset.backward_error_budget

    def _group(
        self,
        error_budget: float,
        edges: LetterboxEdges | None,
        rectangle: Rectangle,
        _: int,
        gate: Gate,
        blocks: Blocks,
        x: Tensor,
        change: Tensor,
    ) -> Tensor:
        """Run a group of blocks in the cells that need the group; the surrogate fills the others."""
        h, w = x.shape[-2:]
        wanted, cost = cells_to_run(gate, x, change, error_budget)
        cells: Mask = wanted[0].cpu().numpy()
        if edges:
            cells |= edges.within(
                rectangle, *(cell_starts(side, n) for side, n in zip((h, w), cells.shape, strict=True))
            )
        if cells.all() or cells.sum() * cost > self.preset.dense_above * h * w:
            return blocks(x)  # type: ignore[no-any-return]
        self._skipped += len(blocks) * h * w * (1.0 - float(cells.mean()))
        return run_cells(blocks, x, change.add_(x), cells, CELL_HALO)

    def tail(
        self, frame: int, padded: Tensor, back: Tensor, feat: Tensor, rectangle: Rectangle, out: Tensor
    ) -> tuple[Rectangle, ...]:
        """Return the parts of a rectangle that need the upsampler; write the surrogate's pixels everywhere in `out`.

        `frame` is the number of the frame in the chunk. `padded` [1, 3 f f, H + 2, W + 2] is the folded frame with one
        feature pixel around, `back` and `feat` [1, C, H, W] its features, `out` [4 H, 4 W, 3] its HR pixels. Returns
        the whole rectangle, and writes nothing, if the preset has no budget for the upsampler or the parts would save
        too little.
        """
        gate = self.estimator.tail_gate
        if gate is None or not self.gates_tail:
            return (rectangle,)
        outer = rectangle.grown(1, *feat.shape[-2:])
        here, inner = (..., outer.rows, outer.columns), rectangle.within(outer)
        inside = (..., inner.rows, inner.columns)
        x = self.network.coarse(back[here], feat[here])
        change = gate.change(x)[inside]
        price = _price(gate, x[inside], change, self.preset.tail_error_budget)
        parts = self._tail_parts(price[0].cpu().numpy().astype(np.float64), self.edges[frame], rectangle)
        spent = sum((p.height + 2 * TAIL_HALO) * (p.width + 2 * TAIL_HALO) + TAIL_OVERHEAD for p in parts)
        if spent > self.preset.dense_above * rectangle.area:
            return (rectangle,)
        around = padded[..., rectangle.y0 : rectangle.y1 + 2, rectangle.x0 : rectangle.x1 + 2]
        hr = rectangle.scaled(self.network.stride)
        write_pixels(out[hr.rows, hr.columns], around, change)
        return tuple(part.moved(rectangle.y0, rectangle.x0) for part in parts)

    @staticmethod
    def _tail_parts(
        price: NDArray[np.float64], edges: LetterboxEdges | None, rectangle: Rectangle
    ) -> tuple[Rectangle, ...]:
        """Choose the parts of a rectangle to upsample by the price [h, w] of skipping each tile."""
        h, w = rectangle.height, rectangle.width
        penalty = price * TILE * TILE
        if edges:
            penalty[edges.within(rectangle, range(0, h, TILE), range(0, w, TILE))] = math.exp(MOST) * TILE * TILE
        return segments(penalty, h, w, Cost(TILE, TAIL_HALO, TAIL_OVERHEAD), TAIL_BAND)


def cells_to_run(gate: Gate, x: Tensor, change: Tensor, error_budget: float) -> tuple[Tensor, int]:
    """Choose the cells [B, down, across] in which to run the group behind a gate; also return a cell's cost in pixels.

    `x` [B, C, H, W] is the input of the group, `change` [B, C, H, W] the output of the surrogate.
    """
    h, w = x.shape[-2:]
    shape = max(round(h / CELL), 1), max(round(w / CELL), 1)
    cost = crop_size(h, shape[0], CELL_HALO) * crop_size(w, shape[1], CELL_HALO)
    mean = F.adaptive_avg_pool2d(_price(gate, x, change, error_budget), shape)
    return mean > cost * shape[0] * shape[1] / (h * w), cost


def _price(gate: Gate, x: Tensor, change: Tensor, error_budget: float) -> Tensor:
    """Return the price of skipping each tile, [B, tiles down, tiles across].

    An expected error equal to the budget has price 1: the cost of computing the tile.
    """
    return gate.expected(x, change).sub_(math.log(error_budget)).clamp_(max=MOST).exp_()


def make_skipper(network: BasicVSR, estimator: Estimator | None, preset: Preset, frames: Tensor) -> Skipper | None:
    """Return a skipper for the folded frames [T, H, W, 3 f f] of a chunk; None if nothing is to be skipped.

    None without an estimator, without a budget in the preset, and for frames small enough to run densely.
    """
    if estimator is None or _too_small(frames.shape[1] * frames.shape[2], preset):
        return None
    blocks = bool(
        (preset.error_budget > 0 and estimator.layout.forward)
        or (preset.backward_error_budget > 0 and estimator.layout.backward)
    )
    if not blocks and (preset.tail_error_budget <= 0 or estimator.tail_gate is None):
        return None
    return Skipper(estimator.adapted or network, estimator, preset, letterbox_edges(frames))


def _too_small(pixels: int, preset: Preset) -> bool:
    """Check whether gates would cost about as much as they save in a frame or a crop of `pixels`."""
    return pixels < 3 * preset.overhead
