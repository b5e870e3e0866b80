"""Cells: small squares of a frame; a group of convolutions runs any number of cells as one batch.

The number of convolutions does not depend on the number of cells: even single cells can be chosen. Rectangles
(`model.mask.rectangles`), in contrast, take one call each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.mask.rectangles import Rectangle

BATCH = 64
"""Cells of one batch; larger batches are no faster and take more memory."""


def run_cells(work: Callable[[Tensor], Tensor], x: Tensor, out: Tensor, chosen: NDArray[np.bool_], halo: int) -> Tensor:
    """Write `work(x)` into the chosen cells of `out`, possibly in place, and return the result [1, C, H, W].

    `chosen` [down, across] divides the frame evenly into cells. Each crop is a cell with `halo` pixels around. At the
    edge of the frame, the crop moves inwards and ends with the frame: convolutions read the same zeros outside.
    """
    out = out.contiguous(memory_format=torch.channels_last)
    cells = _cells(chosen, x.shape[2], x.shape[3], halo)
    for first in range(0, len(cells), BATCH):
        batch = cells[first : first + BATCH]
        done = work(_gathered(x, [crop for _, crop in batch]))
        _scatter(done, batch, out)
    return out


def crop_size(pixels: int, cells: int, halo: int) -> int:
    """Return the side of a crop in pixels, for a side of the frame with `cells` cells."""
    return min(-(-pixels // cells) + 2 * halo, pixels)


def cell_starts(pixels: int, cells: int) -> list[int]:
    """Return the first pixel of each cell, for a side of the frame with `cells` cells."""
    return [i * pixels // cells for i in range(cells)]


def _cells(chosen: NDArray[np.bool_], height: int, width: int, halo: int) -> list[tuple[Rectangle, Rectangle]]:
    """Return the chosen cells of a frame, each with its crop; all crops have one size."""
    n_down, n_across = chosen.shape
    tops, lefts = [*cell_starts(height, n_down), height], [*cell_starts(width, n_across), width]
    tall, wide = crop_size(height, n_down, halo), crop_size(width, n_across, halo)
    cells = []
    for i, j in np.argwhere(chosen).tolist():
        cell = Rectangle(tops[i], lefts[j], tops[i + 1], lefts[j + 1])
        y, x = min(max(cell.y0 - halo, 0), height - tall), min(max(cell.x0 - halo, 0), width - wide)
        cells.append((cell, Rectangle(y, x, y + tall, x + wide)))
    return cells


def _gathered(x: Tensor, crops: Sequence[Rectangle]) -> Tensor:
    """Return crops of `x` [1, C, H, W] as a batch, channels last in memory."""
    pixels = x[0].permute(1, 2, 0)
    batch = x.new_empty(len(crops), crops[0].height, crops[0].width, x.shape[1])
    _copy(list(batch.unbind()), [pixels[crop.rows, crop.columns] for crop in crops])
    return batch.permute(0, 3, 1, 2)


def _scatter(done: Tensor, cells: Sequence[tuple[Rectangle, Rectangle]], out: Tensor) -> None:
    """Write the cells within a batch of their crops into `out` [1, C, H, W]."""
    pixels, parts = out[0].permute(1, 2, 0), []
    for crop_done, (cell, crop) in zip(done.permute(0, 2, 3, 1), cells, strict=True):
        inner = cell.within(crop)
        parts.append(crop_done[inner.rows, inner.columns])
    _copy([pixels[cell.rows, cell.columns] for cell, _ in cells], parts)


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors, in one call: rows of pixels move twice as fast as single pixels by an index."""
    torch._foreach_copy_(targets, sources)
