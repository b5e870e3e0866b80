"""Running a trunk, or the upsampler, with gates: what an estimator expects little of takes a surrogate instead.

Every decision is made from the features of the frame in hand alone, so that it does not depend on how a stream is cut
into chunks. What a group costs in a segment of a band of tiles is weighed against the error that is expected there
without it (`model.boxes.segments`); segments are run with a halo and pasted into the surrogate's result. Where that
would cost about as much as the whole, the whole is run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.boxes import Box, Cost, paint, segments
from model.estimator import Estimator, Gate
from model.network import SCALE, BasicVSR, Trunk
from model.output import write_pixels
from model.routing import TILE, Preset

TAIL_HALO, TAIL_OVERHEAD = 2, 200
"""`Preset.overhead` of the upsampler, where a pixel costs as much as that of a whole trunk, in a few calls."""
BAND, TAIL_BAND = 8, 3
"""Rows of tiles in which a trunk's group, and the upsampler, is run or left out in segments."""
MOST = 3.0
"""Logarithm of the most that an expected error counts, in computed tiles: one tile does not decide for a band."""


@dataclass
class Skipper:
    """Runs the trunks of one chunk with the gates of an estimator, and notes what they left out."""

    network: BasicVSR
    estimator: Estimator
    preset: Preset
    shares: dict[str, list[float]] = field(default_factory=lambda: {"backward": [], "forward": []})
    """By branch and frame, in the order in which they were run: fraction of the computed units that was skipped."""
    _done: float = 0.0
    _skipped: float = 0.0

    def backward(self, x: Tensor) -> Tensor:
        """`network.backward_trunk(x)`, gated."""
        return self._trunk(self.network.backward_trunk, "backward", x)

    def forward(self, x: Tensor) -> Tensor:
        """`network.forward_trunk(x)`, gated."""
        return self._trunk(self.network.forward_trunk, "forward", x)

    def end_frame(self, branch: str) -> None:
        """All crops of a frame have been through that branch."""
        self.shares[branch].append(self._skipped / self._done if self._done else 0.0)
        self._done = self._skipped = 0.0

    def _trunk(self, trunk: Trunk, branch: str, x: Tensor) -> Tensor:
        x = trunk.head(x)
        at, (h, w) = 0, x.shape[-2:]
        halo = self.preset.halo
        cost = Cost(TILE, halo, self.preset.overhead)
        for first, last, gate in self.estimator.gates(branch) if self.preset.confidence > 0 else ():
            x = trunk.blocks[at:first](x)
            group = trunk.blocks[first:last]
            change = gate.change(x)
            boxes = self._boxes(gate, x, change, self.preset.confidence, cost, last - first)
            if _whole(boxes, h, w):
                x = group(x)
            else:
                crops = []
                for box in boxes:
                    outer = box.grown(halo, h, w)
                    crop = group(x[..., outer.rows, outer.columns].contiguous(memory_format=torch.channels_last))
                    inner = box.within(outer)
                    crops.append(crop[..., inner.rows, inner.columns])
                x = change.add_(x)
                for box, crop in zip(boxes, crops, strict=True):
                    x[..., box.rows, box.columns] = crop
            at = last
        self._done += len(trunk.blocks) * h * w
        return trunk.blocks[at:](x)  # type: ignore[no-any-return]

    def tail(self, padded: Tensor, back: Tensor, feat: Tensor, box: Box, out: Tensor) -> tuple[Box, ...]:
        """Where in a box of a frame the upsampler has to be run; everywhere else its surrogate's pixels are written.

        `padded` [1, 3, H + 2, W + 2] is the LR frame with a pixel around it, `back` and `feat` [1, C, H, W] are its
        features, `out` [4 H, 4 W, 3] its HR pixels.
        """
        gate = self.estimator.tail_gate
        if gate is None or self.preset.tail_confidence <= 0:
            return (box,)
        outer = box.grown(1, *feat.shape[-2:])
        here, inner = (..., outer.rows, outer.columns), box.within(outer)
        inside = (..., inner.rows, inner.columns)
        x = self.network.coarse(back[here], feat[here])
        change = gate.change(x)[inside]
        cost = Cost(TILE, TAIL_HALO, TAIL_OVERHEAD)
        boxes = self._boxes(gate, x[inside], change, self.preset.tail_confidence, cost, 0)
        if _whole(boxes, box.y1 - box.y0, box.x1 - box.x0):
            return (box,)
        around = padded[..., box.y0 : box.y1 + 2, box.x0 : box.x1 + 2]
        write_pixels(out[box.y0 * SCALE : box.y1 * SCALE, box.x0 * SCALE : box.x1 * SCALE], around, change)
        return tuple(Box(b.y0 + box.y0, b.x0 + box.x0, b.y1 + box.y0, b.x1 + box.x0) for b in boxes)

    def _boxes(
        self, gate: Gate, x: Tensor, change: Tensor, confidence: float, cost: Cost, blocks: int
    ) -> tuple[Box, ...]:
        """Where the group behind a gate has to be run; counts what it leaves out.

        At `confidence` an expected error is as dear as computing the tile.
        """
        h, w = x.shape[-2:]
        price = gate.expected(x, change).sub_(math.log(confidence)).clamp_(max=MOST).exp_()
        penalty = price.cpu().numpy().astype(np.float64) * TILE * TILE
        boxes = segments(penalty, h, w, cost, BAND if blocks else TAIL_BAND)
        corners = np.array([(b.y1 - b.y0, b.x1 - b.x0) for b in boxes], np.int64).reshape(-1, 2)
        spent = ((corners + 2 * cost.halo).prod(1) + cost.overhead).sum()
        if spent > self.preset.dense_above * h * w:
            return (Box(0, 0, h, w),)
        self._skipped += blocks * h * w * float(1.0 - paint(boxes, penalty.shape, TILE).mean())
        return boxes


def make_skipper(network: BasicVSR, estimator: Estimator | None, preset: Preset, pixels: int) -> Skipper | None:
    """A skipper for one chunk of frames of so many LR pixels; None where nothing is to be skipped.

    That is without an estimator, where the preset says so, and on frames so small that they are run densely.
    """
    if estimator is None or pixels < 3 * preset.overhead or max(preset.confidence, preset.tail_confidence) <= 0:
        return None
    return Skipper(network, estimator, preset)


def _whole(boxes: tuple[Box, ...], h: int, w: int) -> bool:
    return len(boxes) == 1 and boxes[0].area == h * w
