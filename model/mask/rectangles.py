"""Cover the active tiles of a frame with rectangles; each rectangle becomes one dense crop for the network.

A pixel costs as much in a large crop as in a whole frame, but more in single tiles, since each crop needs a halo. A few
rectangles therefore cover all active tiles. A rectangle is cut where the cut saves more than another crop costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
"""[h, w] of tiles; True marks a tile to compute."""
Corners = tuple[int, int, int, int]
"""y0, x0, y1, x1 of a rectangle in tiles."""


@dataclass(frozen=True)
class Rectangle:
    """Half-open rectangle of pixels: rows y0 to y1, columns x0 to x1."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def rows(self) -> slice:
        """Rows, as an index."""
        return slice(self.y0, self.y1)

    @property
    def columns(self) -> slice:
        """Columns, as an index."""
        return slice(self.x0, self.x1)

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.x1 - self.x0

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def scaled(self, factor: int) -> Rectangle:
        """Return the same region of a frame that is `factor` times larger."""
        return Rectangle(self.y0 * factor, self.x0 * factor, self.y1 * factor, self.x1 * factor)

    def moved(self, rows: int, columns: int) -> Rectangle:
        """Return the rectangle moved down by `rows` and right by `columns`."""
        return Rectangle(self.y0 + rows, self.x0 + columns, self.y1 + rows, self.x1 + columns)

    def grown(self, margin: int, height: int, width: int, grid: int = 1) -> Rectangle:
        """Return the rectangle grown by `margin` pixels on each side, then to multiples of `grid`, within the frame."""
        return Rectangle(
            max((self.y0 - margin) // grid * grid, 0),
            max((self.x0 - margin) // grid * grid, 0),
            min(-(-(self.y1 + margin) // grid) * grid, height),
            min(-(-(self.x1 + margin) // grid) * grid, width),
        )

    def within(self, outer: Rectangle) -> Rectangle:
        """Return this rectangle in the coordinates of `outer`, which contains it."""
        return Rectangle(self.y0 - outer.y0, self.x0 - outer.x0, self.y1 - outer.y0, self.x1 - outer.x0)


@dataclass(frozen=True)
class Cost:
    """Cost of computing a crop, in pixels of dense work."""

    tile: int
    """Side of a tile in pixels."""
    halo: int
    """Pixels around a crop that are computed and discarded."""
    overhead: int
    """Fixed cost of one crop in pixels."""

    def of(self, rows: int, columns: int) -> int:
        """Return the cost of a crop of `rows` x `columns` tiles."""
        side = 2 * self.halo
        return (rows * self.tile + side) * (columns * self.tile + side) + self.overhead


def cover(mask: Mask, height: int, width: int, cost: Cost, dense_above: float) -> tuple[Rectangle, ...]:
    """Cover every True tile of `mask` with rectangles of low total cost.

    A rectangle is split if the tight rectangles of its halves cost less together (guillotine cut, best cut first,
    recursively). A cover that costs more than the fraction `dense_above` of the whole frame becomes the whole frame.
    """
    if not mask.any():
        return ()
    full, most = Rectangle(0, 0, height, width), dense_above * height * width
    if int(mask.sum()) * cost.tile**2 + cost.overhead > most:  # true for every cover
        return (full,)
    corners: list[Corners] = []
    _split(_bits(mask), _bits(mask.T), 0, 0, cost, corners)
    if sum(cost.of(y1 - y0, x1 - x0) for y0, x0, y1, x1 in corners) > most:
        return (full,)
    t = cost.tile
    return tuple(Rectangle(y0 * t, x0 * t, min(y1 * t, height), min(x1 * t, width)) for y0, x0, y1, x1 in corners)


def segments(penalty: NDArray[np.float64], height: int, width: int, cost: Cost, band: int) -> tuple[Rectangle, ...]:
    """Choose the tiles to compute, as rectangles in bands of `band` rows of tiles; any tile may be skipped.

    `penalty` [h, w] is the cost of skipping each tile, in pixels of dense work. Each band gets the segments of least
    total cost, found as a shortest path over its columns.
    """
    t, rectangles = cost.tile, []
    for top in range(0, penalty.shape[0], band):
        rows = penalty[top : top + band]
        computed = _cheapest(rows.sum(0).tolist(), len(rows) * t + 2 * cost.halo, cost)
        edges = np.flatnonzero(np.diff([0, *computed, 0])).tolist()
        y0, y1 = top * t, min((top + len(rows)) * t, height)
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            rectangles.append(Rectangle(y0, a * t, y1, min(b * t, width)))
    return tuple(rectangles)


def _cheapest(penalties: list[float], tall: int, cost: Cost) -> list[bool]:
    """Choose the columns of tiles to compute in a band whose crops are `tall` pixels high, at least total cost.

    `penalties` is the cost of skipping each column. Computing a column costs its pixels; a segment of computed columns
    also costs its halo and the overhead of a crop.
    """
    opening, column = cost.overhead + 2 * cost.halo * tall, float(cost.tile * tall)
    skipping, computing = 0.0, float(opening)
    from_skipping: list[tuple[bool, bool]] = []  # per column: whether each of the two paths comes from a skipped one
    for penalty in penalties:
        skip_stays, compute_opens = skipping <= computing, skipping + opening < computing
        skipping, computing = min(skipping, computing) + penalty, min(computing, skipping + opening) + column
        from_skipping.append((skip_stays, compute_opens))
    computed, inside = [False] * len(penalties), computing < skipping
    for at in reversed(range(len(penalties))):
        computed[at] = inside
        inside = not from_skipping[at][1] if inside else not from_skipping[at][0]
    return computed


def paint(rectangles: tuple[Rectangle, ...], shape: tuple[int, int], tile: int) -> Mask:
    """Return the mask [h, w] of `shape` whose True tiles the rectangles contain."""
    mask = np.zeros(shape, np.bool_)
    for rectangle in rectangles:
        mask[rectangle.y0 // tile : -(-rectangle.y1 // tile), rectangle.x0 // tile : -(-rectangle.x1 // tile)] = True
    return mask


def dilate(mask: Mask, reach: int) -> Mask:
    """Return the mask grown by `reach` tiles in all directions, diagonals included."""
    for _ in range(reach):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        mask = grown.copy()
        mask[:, 1:] |= grown[:, :-1]
        mask[:, :-1] |= grown[:, 1:]
    return mask


def _split(rows: list[int], columns: list[int], y: int, x: int, cost: Cost, rectangles: list[Corners]) -> None:
    """Split a mask recursively. `rows` and `columns` hold its bits; its first tile is (y, x)."""
    rows, top = _tight(rows)
    columns, left = _tight(columns)
    rows, columns = [row >> left for row in rows], [column >> top for column in columns]
    y, x = y + top, x + left
    here = cost.of(len(rows), len(columns))
    by_row, by_column = _cut_costs(rows, cost), _cut_costs(columns, cost)
    best = min([here, *by_row, *by_column])
    if best == here:
        rectangles.append((y, x, y + len(rows), x + len(columns)))
    elif best in by_row:
        at = by_row.index(best) + 1
        _split(rows[:at], [column & ((1 << at) - 1) for column in columns], y, x, cost, rectangles)
        _split(rows[at:], [column >> at for column in columns], y + at, x, cost, rectangles)
    else:
        at = by_column.index(best) + 1
        _split([row & ((1 << at) - 1) for row in rows], columns[:at], y, x, cost, rectangles)
        _split([row >> at for row in rows], columns[at:], y, x + at, cost, rectangles)


def _bits(mask: Mask) -> list[int]:
    """Return each row of a mask as an integer whose bits are the columns; Python integers have any width."""
    packed = np.packbits(mask, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in packed]


def _tight(lines: list[int]) -> tuple[list[int], int]:
    """Remove the empty lines at both ends; also return their number at the start."""
    active = [i for i, line in enumerate(lines) if line]
    return lines[active[0] : active[-1] + 1], active[0]


def _cut_costs(lines: list[int], cost: Cost) -> list[int]:
    """Return the cost of a tight mask cut after each line except the last, with both halves tightened."""
    before, after = _tight_costs(lines, cost), _tight_costs(lines[::-1], cost)
    return [a + b for a, b in zip(before[:-1], after[-2::-1], strict=True)]


def _tight_costs(lines: list[int], cost: Cost) -> list[int]:
    """Return the cost of the tight rectangle of lines 0..i for each i; line 0 is not empty."""
    costs, seen, long = [], 0, 0
    for i, line in enumerate(lines):
        if line:
            seen, long = seen | line, i + 1
        costs.append(cost.of(long, seen.bit_length() - (seen & -seen).bit_length() + 1))
    return costs
