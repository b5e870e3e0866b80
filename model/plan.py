"""The inter-frame mask: where a chunk has to be computed, decided from its LR frames before any network runs.

A tile is compared with the frame that it was *last computed on*, not with the frame before it, so that slow changes
add up until they count. In the forward branch that frame lies in the past, in the backward branch in the future. An
unchanged tile keeps its hidden features (flow zero) and its HR pixels. From the output backwards, what nothing depends
on is left out as well: backward features behind a tile whose output is reused are never computed.

This is the "inter-frame mask" of SkipVSR (ACM MM 2024); its rule, its thresholds and the demand analysis are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.boxes import Box, Cost, Mask, cover, dilate, paint
from model.routing import TILE, Preset

Boxes = tuple[Box, ...]
REFRESH_TILES = 8
"""Side, in tiles, of the blocks that are refreshed together."""


@dataclass(frozen=True)
class ChunkPlan:
    """Where each frame of a chunk is computed; everything else is taken over from the neighbouring frame."""

    backward: list[Boxes]
    """For each frame, look-ahead included."""
    forward: list[Boxes]
    """For each emitted frame; the HR output is computed there too."""
    reference: Tensor
    """[H, W, 3] the LR frame that each tile's forward features and output were computed on, after the chunk."""
    tiles: tuple[int, int]
    """Tiles in a column, in a row."""
    halo: int = 0
    """`Preset.halo`; 0 in the dense plan, which has no crops."""

    def painted(self, boxes: Boxes) -> Mask:
        """The tiles that those boxes compute."""
        return paint(boxes, self.tiles, TILE)

    def computed(self, boxes: Boxes) -> int:
        """How many tiles those boxes compute."""
        return int(self.painted(boxes).sum())


def dense_plan(frames: Tensor, emit: int) -> ChunkPlan:
    """Everything everywhere: `frames` [T, H, W, 3], of which the first `emit` are emitted."""
    count, h, w = frames.shape[:3]
    full = (Box(0, 0, h, w),)
    return ChunkPlan([full] * count, [full] * emit, frames[emit - 1], (-(-h // TILE), -(-w // TILE)))


def plan_chunk(frames: Tensor, emit: int, reference: Tensor | None, index: int, preset: Preset) -> ChunkPlan:
    """Plan a chunk under a preset.

    `frames` [T, H, W, 3] integers, of which the first `emit` are emitted; `reference` [H, W, 3] is that of the chunk
    before (`ChunkPlan.reference`), None at the start of a scene; `index` counts the frames since then.
    """
    count, h, w = frames.shape[:3]
    if not preset.mask or h * w < 3 * preset.overhead:
        return dense_plan(frames, emit)
    shape = (-(-h // TILE), -(-w // TILE))
    planes = [_planes(frame) for frame in frames]
    cost = Cost(TILE, preset.halo, preset.overhead)
    due = _refresh_turns(shape, preset.refresh)
    context = preset.halo // TILE + 2  # what a crop looks at in the neighbouring frame: its halo, and a tile for motion

    forward: list[Boxes] = []
    seen = None if reference is None else _planes(reference)
    kept = frames[0].clone() if reference is None else reference.clone()
    for i in range(emit):
        active = np.ones(shape, np.bool_) if seen is None else _changed(planes[i], seen, preset)
        active |= due == (index + i) % preset.refresh
        boxes = cover(active, h, w, cost, preset.dense_above)
        forward.append(boxes)
        seen = planes[i].clone() if seen is None else seen
        for box in boxes:
            whole = (slice(None), *(slice(at.start, -(-at.stop // TILE) * TILE) for at in (box.rows, box.columns)))
            seen[whole] = planes[i][whole]
            kept[box.rows, box.columns] = frames[i][box.rows, box.columns]

    changed: list[Mask] = []
    seen = None
    for i in reversed(range(count)):
        active = np.ones(shape, np.bool_) if seen is None else _changed(planes[i], seen, preset)
        changed.append(active)
        if seen is None:
            seen = planes[i].clone()
        else:
            where = torch.from_numpy(active).to(seen.device).view(1, shape[0], 1, shape[1], 1)
            seen = torch.where(where, _by_tile(planes[i]), _by_tile(seen)).view(seen.shape)
    changed.reverse()

    backward: list[Boxes] = []
    needed = np.zeros(shape, np.bool_)
    for i in range(count):
        if i < emit:
            needed = needed | dilate(paint(forward[i], shape, TILE), context)
        boxes = cover(changed[i] & needed, h, w, cost, preset.dense_above)
        backward.append(boxes)
        run = paint(boxes, shape, TILE)
        needed = (needed & ~run) | dilate(run, context)
    return ChunkPlan(backward, forward, kept, shape, preset.halo)


def _planes(frame: Tensor) -> Tensor:
    """[H, W, 3] RGB integers -> [3, H', W'] luma and colour differences in levels of 255, float32 (BT.601 weights).

    H' and W' are multiples of a tile's side; the last row and column are repeated.
    """
    h, w, _ = frame.shape
    levels = 255.0 if frame.dtype == torch.uint8 else 65535.0
    rgb = F.pad(frame.permute(2, 0, 1)[None].float(), (0, -w % TILE, 0, -h % TILE), mode="replicate")[0]
    weights = rgb.new_tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
    return (weights * (255.0 / levels) @ rgb.flatten(1)).view(rgb.shape)


def _changed(now: Tensor, seen: Tensor, preset: Preset) -> Mask:
    """Tiles in which two frames (`_planes`) differ, and those within reach of them.

    Noise of a codec changes sign from pixel to pixel, and little is left of it in the mean of a quarter; of what
    moves, however slowly, more is left. So the means may differ less than the pixels.
    """
    difference = now - seen
    drift = _halves(_quarters(difference[:1]).abs_())[0]
    detail = _quarters(difference.abs_())
    mean = _halves(detail)
    moved = (detail[None, :1] > preset.detail).float()
    moved = F.max_pool2d(moved, 2 * preset.reach + 1, 1, preset.reach)
    moved = F.max_pool2d(moved, 2)[0, 0] > 0
    hot = (mean[0] > preset.luma) | (mean[1:].amax(0) > preset.chroma) | (drift > preset.drift) | moved
    return hot.cpu().numpy()


def _quarters(x: Tensor) -> Tensor:
    """Means over the quarters of tiles: [C, H, W] -> [C, H / 4, W / 4].

    The sums along rows are a product with ones: a twentieth of what average pooling takes for so few channels.
    """
    side = TILE // 2
    c, h, w = x.shape
    rows = (x.reshape(-1, side) @ x.new_full((side,), 1.0 / (side * side))).view(c, h // side, side, w // side)
    return rows.sum(2)


def _halves(x: Tensor) -> Tensor:
    """Means of two by two: [C, H, W] -> [C, H / 2, W / 2]."""
    rows = x[:, ::2] + x[:, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def _by_tile(planes: Tensor) -> Tensor:
    """[C, H, W] -> [C, tiles down, TILE, tiles across, TILE], a view."""
    c, h, w = planes.shape
    return planes.view(c, h // TILE, TILE, w // TILE, TILE)


def _refresh_turns(shape: tuple[int, int], period: int) -> NDArray[np.int64]:
    """At which frame of each period a tile is refreshed: block by block, so that few crops do it, evenly spread."""
    rows, columns = (-(-n // REFRESH_TILES) for n in shape)
    turns = np.arange(rows * columns).reshape(rows, columns) * period // (rows * columns)
    return np.kron(turns, np.ones((REFRESH_TILES, REFRESH_TILES), np.int64))[: shape[0], : shape[1]]
