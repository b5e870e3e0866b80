"""Running a trunk, or the upsampler, with gates: what an estimator expects little of takes a surrogate instead.

Every decision is made from the features of the frame in hand alone, so that it does not depend on how a stream is cut
into chunks, but for one: where the backward branch begins, at the end of each chunk, all is run. There the features
know of nothing but their own frame, heads expect less of a group than it does, and the frames before inherit it. What
lies beside the end of a black bar is run as well (`model.gates.letterbox`).
A trunk's group is run in the cells (`model.gates.cells`) where the error that is expected without it outweighs
the time; a batch of crops, pasted into the surrogate's result. The upsampler, whose pixels cost far more than a call,
is run in segments of bands of tiles (`model.mask.rectangles.segments`). Where that would cost about as much as the
whole, the whole is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from model.gates.cells import cell_starts, crop_size, run_cells
from model.gates.estimator import Estimator, Gate
from model.gates.letterbox import Ends, bar_ends
from model.mask.rectangles import Box, Cost, Mask, segments
from model.network.basicvsr import SCALE, BasicVSR, Trunk
from model.network.output import write_pixels
from model.routing import TILE, Preset

TAIL_HALO, TAIL_OVERHEAD = 2, 200
"""`Preset.overhead` of the upsampler, where a pixel costs as much as that of a whole trunk, in a few calls."""
TAIL_BAND = 3
"""Rows of tiles in which the upsampler is run or left out in segments."""
CELL, CELL_HALO = 24, 1
"""Side of the cells, nearly, in which a trunk's group is run or left out, and the pixels around one: without any the
seams cost PSNR, with two or more it is no better (`model/LOG.md`)."""
MOST = 3.0
"""Logarithm of the most that an expected error counts, in computed tiles: one tile does not decide for its cell."""


@dataclass
class Skipper:
    """Runs the trunks of one chunk with the gates of an estimator, and notes what they left out."""

    network: BasicVSR
    estimator: Estimator
    preset: Preset
    ends: Sequence[Ends | None]
    """Of each frame of the chunk, where black bars end."""
    shares: dict[str, list[float]] = field(default_factory=lambda: {"backward": [], "forward": []})
    """By branch and frame, in the order in which they were run: fraction of the computed units that was skipped."""
    _done: float = 0.0
    _skipped: float = 0.0

    def trunk(self, branch: str, frame: int, box: Box) -> Callable[[Tensor], Tensor]:
        """The trunk of the branch `backward` or `forward`, gated, for a box of that frame of the chunk."""
        trunk = self.network.backward_trunk if branch == "backward" else self.network.forward_trunk
        return partial(self._trunk, trunk, branch, self.ends[frame], box)

    def end_frame(self, branch: str) -> None:
        """All crops of a frame have been through that branch."""
        self.shares[branch].append(self._skipped / self._done if self._done else 0.0)
        self._done = self._skipped = 0.0

    def _trunk(self, trunk: Trunk, branch: str, ends: Ends | None, box: Box, x: Tensor) -> Tensor:
        x = trunk.head(x)
        at, (h, w) = 0, x.shape[-2:]
        begins = branch == "backward" and not self.shares[branch]
        gated = self.preset.confidence > 0 and not begins and not _too_small(h * w, self.preset)
        for first, last, gate in self.estimator.gates(branch) if gated else ():
            x = trunk.blocks[at:first](x)
            group = trunk.blocks[first:last]
            change = gate.change(x)
            wanted, cost = cells_to_run(gate, x, change, self.preset.confidence)
            cells: Mask = wanted[0].cpu().numpy()
            if ends:
                cells |= ends.within(box, *(cell_starts(side, n) for side, n in zip((h, w), cells.shape, strict=True)))
            if cells.all() or cells.sum() * cost > self.preset.dense_above * h * w:
                x = group(x)
            else:
                x = run_cells(group, x, change.add_(x), cells, CELL_HALO)
                self._skipped += (last - first) * h * w * (1.0 - float(cells.mean()))
            at = last
        self._done += len(trunk.blocks) * h * w
        return trunk.blocks[at:](x)  # type: ignore[no-any-return]

    def tail(self, frame: int, padded: Tensor, back: Tensor, feat: Tensor, box: Box, out: Tensor) -> tuple[Box, ...]:
        """Where in a box of a frame the upsampler has to be run; everywhere else its surrogate's pixels are written.

        `frame` is its number in the chunk, `padded` [1, 3, H + 2, W + 2] the LR frame with a pixel around it, `back`
        and `feat` [1, C, H, W] are its features, `out` [4 H, 4 W, 3] its HR pixels.
        """
        gate = self.estimator.tail_gate
        if gate is None or self.preset.tail_confidence <= 0:
            return (box,)
        outer = box.grown(1, *feat.shape[-2:])
        here, inner = (..., outer.rows, outer.columns), box.within(outer)
        inside = (..., inner.rows, inner.columns)
        x = self.network.coarse(back[here], feat[here])
        change = gate.change(x)[inside]
        price = _price(gate, x[inside], change, self.preset.tail_confidence)
        penalty = price[0].cpu().numpy().astype(np.float64) * TILE * TILE
        h, w = box.y1 - box.y0, box.x1 - box.x0
        ends = self.ends[frame]
        if ends:
            penalty[ends.within(box, range(0, h, TILE), range(0, w, TILE))] = math.exp(MOST) * TILE * TILE
        boxes = segments(penalty, h, w, Cost(TILE, TAIL_HALO, TAIL_OVERHEAD), TAIL_BAND)
        spent = sum((b.y1 - b.y0 + 2 * TAIL_HALO) * (b.x1 - b.x0 + 2 * TAIL_HALO) + TAIL_OVERHEAD for b in boxes)
        if spent > self.preset.dense_above * h * w:
            return (box,)
        around = padded[..., box.y0 : box.y1 + 2, box.x0 : box.x1 + 2]
        write_pixels(out[box.y0 * SCALE : box.y1 * SCALE, box.x0 * SCALE : box.x1 * SCALE], around, change)
        return tuple(Box(b.y0 + box.y0, b.x0 + box.x0, b.y1 + box.y0, b.x1 + box.x0) for b in boxes)


def cells_to_run(gate: Gate, x: Tensor, change: Tensor, confidence: float) -> tuple[Tensor, int]:
    """The cells [B, down, across] in which the group behind a gate has to be run, and what one costs, in pixels.

    `x` [B, C, H, W] is what goes into the group, `change` what its surrogate adds.
    """
    h, w = x.shape[-2:]
    shape = max(round(h / CELL), 1), max(round(w / CELL), 1)
    cost = crop_size(h, shape[0], CELL_HALO) * crop_size(w, shape[1], CELL_HALO)
    mean = F.adaptive_avg_pool2d(_price(gate, x, change, confidence), shape)
    return mean > cost * shape[0] * shape[1] / (h * w), cost


def _price(gate: Gate, x: Tensor, change: Tensor, confidence: float) -> Tensor:
    """What the expected error of leaving out a tile counts, [B, tiles down, tiles across].

    At `confidence` it is 1: as dear as computing the tile.
    """
    return gate.expected(x, change).sub_(math.log(confidence)).clamp_(max=MOST).exp_()


def make_skipper(network: BasicVSR, estimator: Estimator | None, preset: Preset, frames: Tensor) -> Skipper | None:
    """A skipper for a chunk's frames [T, H, W, 3] of integers; None where nothing is to be skipped.

    That is without an estimator, where the preset sets none of its gates to work, and on frames so small that they are
    run densely.
    """
    if estimator is None or _too_small(frames.shape[1] * frames.shape[2], preset):
        return None
    blocks = preset.confidence > 0 and bool(estimator.layout.backward or estimator.layout.forward)
    if not blocks and (preset.tail_confidence <= 0 or estimator.tail_gate is None):
        return None
    return Skipper(estimator.adapted or network, estimator, preset, bar_ends(frames))


def _too_small(pixels: int, preset: Preset) -> bool:
    """Whether gates cost about as much as they could save, in a frame or in a crop of it."""
    return pixels < 3 * preset.overhead
