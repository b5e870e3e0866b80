"""The inter-frame mask: decide from the LR frames where to compute a chunk, before any network runs.

Each tile is compared with the frame of its *last computation*, not with the frame before. Slow changes add up until
they count. In the forward branch that frame lies in the past, in the backward branch in the future. An unchanged tile
keeps its hidden features (flow zero) and its HR pixels. A demand analysis, from the output backwards, removes work that
nothing reads: backward features behind a tile with reused output are never computed.

The "inter-frame mask" is an idea of SkipVSR (ACM MM 2024); this project chose rule, thresholds and demand analysis.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.mask.changes import Grid, Picture, changed, tiles_of
from model.mask.rectangles import Cost, Mask, Rectangle, cover, dilate, paint
from model.routing import TILE, WHOLE_FRAMES, Preset

Rectangles = tuple[Rectangle, ...]
REFRESH_TILES = 8
"""Side of the blocks that are refreshed together, in tiles."""


@dataclass(frozen=True)
class ChunkPlan:
    """The rectangles to compute in each frame of a chunk; all other tiles reuse the neighbouring frame."""

    backward: list[Rectangles]
    """Rectangles of each frame, look-ahead included."""
    forward: list[Rectangles]
    """Rectangles of each emitted frame, also for its HR output."""
    reference: Tensor
    """[H, W, 3 f f] after the chunk: the folded frame at each tile's last computation in the forward branch."""
    tiles: tuple[int, int]
    """Number of tiles in a column and in a row."""
    halo: int = 0
    """`Preset.halo`; 0 in the dense plan, which has no crops."""
    negated_flow: bool = False
    """`Preset.negated_flow`."""
    rests: Collection[int] = ()
    """Frames in which the backward trunk rests (`Preset.backward_every`): rectangles are only aligned there."""

    def painted(self, rectangles: Rectangles) -> Mask:
        """Return the mask of the tiles that the rectangles compute."""
        return paint(rectangles, self.tiles, TILE)

    def backward_trunk(self, index: int) -> Rectangles:
        """Return the rectangles of a frame that go through the backward trunk."""
        return () if index in self.rests else self.backward[index]


def dense_plan(frames: Tensor, emit: int) -> ChunkPlan:
    """Plan to compute everything: folded `frames` [T, H, W, 3 f f], of which the first `emit` are emitted."""
    count, h, w = frames.shape[:3]
    full = (Rectangle(0, 0, h, w),)
    return ChunkPlan([full] * count, [full] * emit, frames[emit - 1], tiles_of(h, w))


def plan_chunk(frames: Tensor, emit: int, reference: Tensor | None, index: int, preset: Preset) -> ChunkPlan:
    """Plan a chunk under a preset.

    `frames` [T, H, W, 3 f f] are folded integers; the first `emit` are emitted. `reference` [H, W, 3 f f] is
    `ChunkPlan.reference` of the chunk before, None at the start of a scene. `index` counts the frames since the start
    of the scene.
    """
    h, w = frames.shape[1:3]
    large = not h * w < 3 * preset.overhead < 3 * WHOLE_FRAMES
    plan = _Planner(frames, preset).plan(emit, reference, index) if large and preset.mask else dense_plan(frames, emit)
    rests = _rests(index, len(frames), preset.backward_every) if large else frozenset()
    return replace(plan, negated_flow=preset.negated_flow, rests=rests)


class _Planner:
    """Plans one folded chunk [T, H, W, 3 f f] under a preset."""

    def __init__(self, frames: Tensor, preset: Preset) -> None:
        self._frames, self._preset = frames, preset
        self._shape, self._grid = tiles_of(*frames.shape[1:3]), Grid.of(frames[0])
        self._pictures = [Picture.of(frame, self._grid) for frame in frames]

    def plan(self, emit: int, reference: Tensor | None, index: int) -> ChunkPlan:
        forward, kept = self._forward(emit, reference, index)
        backward = self._backward([paint(rectangles, self._shape, TILE) for rectangles in forward])
        return ChunkPlan(backward, forward, kept, self._shape, self._preset.halo)

    def _forward(self, emit: int, reference: Tensor | None, index: int) -> tuple[list[Rectangles], Tensor]:
        """Return the rectangles of each emitted frame, and the reference after them."""
        due = _refresh_turns(self._shape, self._preset.refresh)
        seen = None if reference is None else Picture.of(reference, self._grid)
        kept = self._frames[0].clone() if reference is None else reference.clone()
        planned: list[Rectangles] = []
        for i, picture in enumerate(self._pictures[:emit]):
            active = self._changed(picture, seen)
            active |= due == (index + i) % self._preset.refresh
            rectangles = self._covered(active)
            planned.append(rectangles)
            seen = picture if seen is None else seen.updated(paint(rectangles, self._shape, TILE), picture)
            for rectangle in rectangles:
                kept[rectangle.rows, rectangle.columns] = self._frames[i][rectangle.rows, rectangle.columns]
        return planned, kept

    def _backward(self, emitted: Sequence[Mask]) -> list[Rectangles]:
        """Return the rectangles of every frame, given the tiles that the forward branch computes."""
        context = self._preset.halo // TILE + 2  # what a crop reads of the next frame: its halo, and a tile for motion
        planned: list[Rectangles] = []
        needed = np.zeros(self._shape, np.bool_)
        for i, moved in enumerate(self._changed_backwards()):
            if i < len(emitted):
                needed = needed | dilate(emitted[i], context)
            rectangles = self._covered(moved & needed)
            planned.append(rectangles)
            run = paint(rectangles, self._shape, TILE)
            needed = (needed & ~run) | dilate(run, context)
        return planned

    def _changed_backwards(self) -> list[Mask]:
        """Return for each frame the tiles that changed since their last computation, from the last frame backwards."""
        moved: list[Mask] = []
        seen = None
        for picture in reversed(self._pictures):
            moved.append(self._changed(picture, seen))
            seen = picture if seen is None else seen.updated(moved[-1], picture)
        return moved[::-1]

    def _changed(self, picture: Picture, seen: Picture | None) -> Mask:
        if seen is None:
            return np.ones(self._shape, np.bool_)
        return changed(picture, seen, self._grid, self._preset)

    def _covered(self, mask: Mask) -> Rectangles:
        h, w = self._frames.shape[1:3]
        cost = Cost(TILE, self._preset.halo, self._preset.overhead)
        return cover(mask, h, w, cost, self._preset.dense_above)


def _rests(index: int, count: int, every: int) -> frozenset[int]:
    """Return the frames of a chunk in which the backward trunk rests; the branch begins with the last one."""
    return frozenset(i for i in range(count - 1) if every > 1 and (index + i) % every)


def _refresh_turns(shape: tuple[int, int], period: int) -> NDArray[np.int64]:
    """Return for each tile the frame of each period that refreshes it: block by block, evenly spread, in few crops."""
    rows, columns = (-(-n // REFRESH_TILES) for n in shape)
    turns = np.arange(rows * columns).reshape(rows, columns) * period // (rows * columns)
    return np.kron(turns, np.ones((REFRESH_TILES, REFRESH_TILES), np.int64))[: shape[0], : shape[1]]
