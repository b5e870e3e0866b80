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
            seen[:, box.rows, box.columns] = planes[i][:, box.rows, box.columns]
            kept[box.rows, box.columns] = frames[i][box.rows, box.columns]

    changed: list[Mask] = []
    seen = None
    for i in reversed(range(count)):
        active = np.ones(shape, np.bool_) if seen is None else _changed(planes[i], seen, preset)
        changed.append(active)
        if seen is None:
            seen = planes[i].clone()
        else:
            where = torch.from_numpy(np.kron(active, np.ones((TILE, TILE), np.bool_))[:h, :w]).to(seen.device)
            seen = torch.where(where, planes[i], seen)
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
    """[H, W, 3] RGB integers -> [3, H, W] luma and colour differences in levels of 255, float32 (BT.601 weights)."""
    peak = 255.0 if frame.dtype == torch.uint8 else 65535.0
    rgb = frame.permute(2, 0, 1).float()
    weights = rgb.new_tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
    return (weights * (255.0 / peak) @ rgb.flatten(1)).view(rgb.shape)  # rows of planes: half the time of columns


def _changed(now: Tensor, seen: Tensor, preset: Preset) -> Mask:
    """Tiles in which two frames differ, and those within reach of them.

    Noise of a codec changes sign from pixel to pixel, and little is left of it in the mean of a quarter; of what
    moves, however slowly, more is left. So the means may differ less than the pixels.
    """
    difference = (now - seen)[None]
    means = F.avg_pool2d(difference[:, :1], TILE // 2, ceil_mode=True, count_include_pad=False).abs_()
    drift = F.avg_pool2d(means, 2, ceil_mode=True, count_include_pad=False)[0, 0]
    detail = F.avg_pool2d(difference.abs_(), TILE // 2, ceil_mode=True, count_include_pad=False)
    mean = F.avg_pool2d(detail, 2, ceil_mode=True, count_include_pad=False)[0]
    moved = (detail[:, :1] > preset.detail).float()
    moved = F.max_pool2d(moved, 2 * preset.reach + 1, 1, preset.reach)
    moved = F.max_pool2d(moved, 2, ceil_mode=True)[0, 0] > 0
    hot = (mean[0] > preset.luma) | (mean[1:].amax(0) > preset.chroma) | (drift > preset.drift) | moved
    return hot.cpu().numpy()


def _refresh_turns(shape: tuple[int, int], period: int) -> NDArray[np.int64]:
    """At which frame of each period a tile is refreshed: block by block, so that few crops do it, evenly spread."""
    rows, columns = (-(-n // REFRESH_TILES) for n in shape)
    turns = np.arange(rows * columns).reshape(rows, columns) * period // (rows * columns)
    return np.kron(turns, np.ones((REFRESH_TILES, REFRESH_TILES), np.int64))[: shape[0], : shape[1]]
