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
from numpy.typing import NDArray
from torch import Tensor

from model.mask.changes import Grid, Picture, changed, tiles_of
from model.mask.rectangles import Box, Cost, Mask, cover, dilate, paint
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
    return ChunkPlan([full] * count, [full] * emit, frames[emit - 1], tiles_of(h, w))


def plan_chunk(frames: Tensor, emit: int, reference: Tensor | None, index: int, preset: Preset) -> ChunkPlan:
    """Plan a chunk under a preset.

    `frames` [T, H, W, 3] integers, of which the first `emit` are emitted; `reference` [H, W, 3] is that of the chunk
    before (`ChunkPlan.reference`), None at the start of a scene; `index` counts the frames since then.
    """
    count, h, w = frames.shape[:3]
    if not preset.mask or h * w < 3 * preset.overhead:
        return dense_plan(frames, emit)
    shape, grid = tiles_of(h, w), Grid.of(frames[0])
    pictures = [Picture.of(frame, grid) for frame in frames]
    cost = Cost(TILE, preset.halo, preset.overhead)
    due = _refresh_turns(shape, preset.refresh)
    context = preset.halo // TILE + 2  # what a crop looks at in the neighbouring frame: its halo, and a tile for motion

    forward: list[Boxes] = []
    seen = None if reference is None else Picture.of(reference, grid)
    kept = frames[0].clone() if reference is None else reference.clone()
    for i in range(emit):
        active = np.ones(shape, np.bool_) if seen is None else changed(pictures[i], seen, grid, preset)
        active |= due == (index + i) % preset.refresh
        boxes = cover(active, h, w, cost, preset.dense_above)
        forward.append(boxes)
        seen = pictures[i] if seen is None else seen.updated(paint(boxes, shape, TILE), pictures[i])
        for box in boxes:
            kept[box.rows, box.columns] = frames[i][box.rows, box.columns]

    moved: list[Mask] = []
    seen = None
    for picture in reversed(pictures):
        moved.append(np.ones(shape, np.bool_) if seen is None else changed(picture, seen, grid, preset))
        seen = picture if seen is None else seen.updated(moved[-1], picture)
    moved.reverse()

    backward: list[Boxes] = []
    needed = np.zeros(shape, np.bool_)
    for i in range(count):
        if i < emit:
            needed = needed | dilate(paint(forward[i], shape, TILE), context)
        boxes = cover(moved[i] & needed, h, w, cost, preset.dense_above)
        backward.append(boxes)
        run = paint(boxes, shape, TILE)
        needed = (needed & ~run) | dilate(run, context)
    return ChunkPlan(backward, forward, kept, shape, preset.halo)


def _refresh_turns(shape: tuple[int, int], period: int) -> NDArray[np.int64]:
    """At which frame of each period a tile is refreshed: block by block, so that few crops do it, evenly spread."""
    rows, columns = (-(-n // REFRESH_TILES) for n in shape)
    turns = np.arange(rows * columns).reshape(rows, columns) * period // (rows * columns)
    return np.kron(turns, np.ones((REFRESH_TILES, REFRESH_TILES), np.int64))[: shape[0], : shape[1]]
