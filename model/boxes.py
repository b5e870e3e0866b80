"""Rectangles that cover what has to be computed: each becomes one dense crop for the network.

A convolution on a few large crops is as fast a pixel as on the whole frame; on many single tiles it is not, since each
needs a halo around it. So the active tiles are covered by few rectangles, cut where that is cheaper than the waste.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
"""[h, w] of tiles; True: has to be computed."""
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Box:
    """Half-open rectangle of pixels: rows y0 to y1, columns x0 to x1."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def rows(self) -> slice:
        """Its rows, to index with."""
        return slice(self.y0, self.y1)

    @property
    def columns(self) -> slice:
        """Its columns, to index with."""
        return slice(self.x0, self.x1)

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.y1 - self.y0) * (self.x1 - self.x0)

    def grown(self, margin: int, height: int, width: int, grid: int = 1) -> Box:
        """`margin` pixels larger on each side, then out to multiples of `grid`, but inside of the frame."""
        return Box(
            max((self.y0 - margin) // grid * grid, 0),
            max((self.x0 - margin) // grid * grid, 0),
            min(-(-(self.y1 + margin) // grid) * grid, height),
            min(-(-(self.x1 + margin) // grid) * grid, width),
        )

    def within(self, outer: Box) -> Box:
        """This box in the coordinates of `outer`, which contains it."""
        return Box(self.y0 - outer.y0, self.x0 - outer.x0, self.y1 - outer.y0, self.x1 - outer.x0)


@dataclass(frozen=True)
class Cost:
    """What computing a crop costs, in pixels of the dense pass."""

    tile: int
    """Side of a tile in pixels."""
    halo: int
    """Pixels around a crop that are computed and thrown away."""
    overhead: int
    """Fixed cost of one more crop, expressed in pixels."""

    def of(self, rows: IntArray, columns: IntArray) -> IntArray:
        """Cost of crops of so many rows and columns of tiles."""
        side = 2 * self.halo
        return (rows * self.tile + side) * (columns * self.tile + side) + self.overhead


def cover(mask: Mask, height: int, width: int, cost: Cost, dense_above: float) -> tuple[Box, ...]:
    """Boxes that contain every True tile of `mask`, of low total cost.

    A rectangle is split in two where the tight rectangles of the halves cost less than it does (a guillotine cut, best
    one first), recursively. A cover that would cost more than `dense_above` of the whole frame becomes the whole frame.
    """
    if not mask.any():
        return ()
    full = Box(0, 0, height, width)
    if int(mask.sum()) * cost.tile**2 > dense_above * height * width:  # whatever the cover
        return (full,)
    boxes: list[tuple[int, int, int, int]] = []
    _split(mask, 0, 0, cost, boxes)
    corners = np.array(boxes, np.int64)
    spent = int(cost.of(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]).sum())
    if spent > dense_above * height * width:
        return (full,)
    t = cost.tile
    return tuple(Box(y0 * t, x0 * t, min(y1 * t, height), min(x1 * t, width)) for y0, x0, y1, x1 in boxes)


def segments(penalty: NDArray[np.float64], height: int, width: int, cost: Cost, band: int) -> tuple[Box, ...]:
    """Boxes in bands of `band` rows of tiles that are worth computing, where every tile may also be left out.

    `penalty` [h, w] says what leaving out a tile costs, in pixels of the dense pass. In each band the segments are
    those of least total cost, computed and left out (a shortest path over its columns).
    """
    t, boxes = cost.tile, []
    for top in range(0, penalty.shape[0], band):
        rows = penalty[top : top + band]
        tall = len(rows) * t + 2 * cost.halo
        opening, column = cost.overhead + 2 * cost.halo * tall, float(t * tall)
        out, run = 0.0, float(opening)
        from_out: list[tuple[bool, bool]] = []  # whether out, and run, come from out
        for left_out in rows.sum(0).tolist():
            out_stays, run_opens = out <= run, out + opening < run
            out, run = min(out, run) + left_out, min(run, out + opening) + column
            from_out.append((out_stays, run_opens))
        computed, inside = [False] * len(from_out), run < out
        for at in reversed(range(len(from_out))):
            computed[at] = inside
            inside = not from_out[at][1] if inside else not from_out[at][0]
        edges = np.flatnonzero(np.diff([0, *computed, 0])).tolist()
        y0, y1 = top * t, min((top + len(rows)) * t, height)
        boxes += [Box(y0, a * t, y1, min(b * t, width)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return tuple(boxes)


def paint(boxes: tuple[Box, ...], shape: tuple[int, int], tile: int) -> Mask:
    """The tiles that the boxes contain: a mask of that shape."""
    mask = np.zeros(shape, np.bool_)
    for box in boxes:
        mask[box.y0 // tile : -(-box.y1 // tile), box.x0 // tile : -(-box.x1 // tile)] = True
    return mask


def dilate(mask: Mask, reach: int) -> Mask:
    """True also for the tiles up to `reach` away, diagonally too."""
    for _ in range(reach):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        mask = grown.copy()
        mask[:, 1:] |= grown[:, :-1]
        mask[:, :-1] |= grown[:, 1:]
    return mask


def _split(mask: Mask, y: int, x: int, cost: Cost, boxes: list[tuple[int, int, int, int]]) -> None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    mask = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    y, x = y + top, x + left
    here = int(cost.of(*np.array(mask.shape, np.int64)[:, None])[0])
    by_row, by_column = _cut_costs(mask, cost), _cut_costs(mask.T, cost)
    best = min(int(by_row.min(initial=here)), int(by_column.min(initial=here)))
    if best >= here:
        boxes.append((y, x, y + mask.shape[0], x + mask.shape[1]))
    elif by_row.size and int(by_row.min()) == best:
        at = int(by_row.argmin()) + 1
        _split(mask[:at], y, x, cost, boxes)
        _split(mask[at:], y + at, x, cost, boxes)
    else:
        at = int(by_column.argmin()) + 1
        _split(mask[:, :at], y, x, cost, boxes)
        _split(mask[:, at:], y, x + at, cost, boxes)


def _cut_costs(mask: Mask, cost: Cost) -> IntArray:
    """Cost of cutting a tight mask after each of its rows but the last, both halves made tight again."""
    return _tight_costs(mask, cost)[:-1] + _tight_costs(mask[::-1], cost)[-2::-1]


def _tight_costs(mask: Mask, cost: Cost) -> IntArray:
    """Cost of the tight rectangle of rows 0..i, for each i; row 0 holds a True."""
    h, w = mask.shape
    last = np.maximum.accumulate(np.where(mask.any(1), np.arange(h), 0))  # last active row so far
    seen = np.logical_or.accumulate(mask, axis=0)
    columns = w - seen[:, ::-1].argmax(1) - seen.argmax(1)
    return cost.of(last + 1, columns)
