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
Corners = tuple[int, int, int, int]
"""y0, x0, y1, x1 of a rectangle, in tiles."""


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

    def of(self, rows: int, columns: int) -> int:
        """Cost of a crop of so many rows and columns of tiles."""
        side = 2 * self.halo
        return (rows * self.tile + side) * (columns * self.tile + side) + self.overhead


def cover(mask: Mask, height: int, width: int, cost: Cost, dense_above: float) -> tuple[Box, ...]:
    """Boxes that contain every True tile of `mask`, of low total cost.

    A rectangle is split in two where the tight rectangles of the halves cost less than it does (a guillotine cut, best
    one first), recursively. A cover that would cost more than `dense_above` of the whole frame becomes the whole frame.
    """
    if not mask.any():
        return ()
    full, most = Box(0, 0, height, width), dense_above * height * width
    if int(mask.sum()) * cost.tile**2 + cost.overhead > most:  # whatever the cover
        return (full,)
    boxes: list[Corners] = []
    _split(_bits(mask), _bits(mask.T), 0, 0, cost, boxes)
    if sum(cost.of(y1 - y0, x1 - x0) for y0, x0, y1, x1 in boxes) > most:
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


def _split(rows: list[int], columns: list[int], y: int, x: int, cost: Cost, boxes: list[Corners]) -> None:
    """Split a mask, given as the bits of its rows and of its columns, the first of which is tile (y, x)."""
    rows, top = _tight(rows)
    columns, left = _tight(columns)
    rows, columns = [row >> left for row in rows], [column >> top for column in columns]
    y, x = y + top, x + left
    here = cost.of(len(rows), len(columns))
    by_row, by_column = _cut_costs(rows, cost), _cut_costs(columns, cost)
    best = min([here, *by_row, *by_column])
    if best == here:
        boxes.append((y, x, y + len(rows), x + len(columns)))
    elif best in by_row:
        at = by_row.index(best) + 1
        _split(rows[:at], [column & ((1 << at) - 1) for column in columns], y, x, cost, boxes)
        _split(rows[at:], [column >> at for column in columns], y + at, x, cost, boxes)
    else:
        at = by_column.index(best) + 1
        _split([row & ((1 << at) - 1) for row in rows], columns[:at], y, x, cost, boxes)
        _split([row >> at for row in rows], columns[at:], y, x + at, cost, boxes)


def _bits(mask: Mask) -> list[int]:
    """Each row as a number whose bits are its columns: Python's are as wide as it takes, and quick."""
    packed = np.packbits(mask, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def _tight(lines: list[int]) -> tuple[list[int], int]:
    """Without the empty lines at both ends, and how many there were before the first."""
    active = [i for i, line in enumerate(lines) if line]
    return lines[active[0] : active[-1] + 1], active[0]


def _cut_costs(lines: list[int], cost: Cost) -> list[int]:
    """Cost of cutting a tight mask after each of its lines but the last, both halves made tight again."""
    before, after = _tight_costs(lines, cost), _tight_costs(lines[::-1], cost)
    return [a + b for a, b in zip(before[:-1], after[-2::-1], strict=True)]


def _tight_costs(lines: list[int], cost: Cost) -> list[int]:
    """Cost of the tight rectangle of lines 0..i, for each i; line 0 holds a True."""
    costs, seen, long = [], 0, 0
    for i, line in enumerate(lines):
        if line:
            seen, long = seen | line, i + 1
        costs.append(cost.of(long, seen.bit_length() - (seen & -seen).bit_length() + 1))
    return costs
