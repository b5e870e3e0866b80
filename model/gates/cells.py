"""Cells: small squares of a frame; a group of convolutions runs any number of cells as one batch.

The number of calls does not depend on the number of cells, so that single cells can be chosen. Rectangles
(`model.mask.rectangles`), in contrast, take one call each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BATCH = 64
"""Cells of one batch; larger batches are no faster and take more memory."""


def run_cells(work: Callable[[Tensor], Tensor], x: Tensor, out: Tensor, chosen: NDArray[np.bool_], halo: int) -> Tensor:
    """Write `work(x)` into the chosen cells of `out`, possibly in place, and return the result [1, C, H, W].

    `chosen` [down, across] divides the frame evenly into cells. Each crop is a cell with `halo` pixels around. At the
    edge of the frame the crop moves inwards and ends with the frame, so that convolutions see the same zeros outside.
    """
    out = out.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = x.shape
    n_down, n_across = chosen.shape
    tall, wide = crop_size(height, n_down, halo), crop_size(width, n_across, halo)
    down, across = (at[:, None, None] for at in np.nonzero(chosen))
    pixels_in, pixels_out = _rows(x), _rows(out)
    for first in range(0, len(down), BATCH):
        i, j = (at[first : first + BATCH] for at in (down, across))
        top, bottom, left, right = (
            at * size // n
            for at, size, n in (
                (i, height, n_down),
                (i + 1, height, n_down),
                (j, width, n_across),
                (j + 1, width, n_across),
            )
        )
        crop_top, crop_left = np.clip(top - halo, 0, height - tall), np.clip(left - halo, 0, width - wide)
        rows, columns = crop_top + np.arange(tall)[:, None], crop_left + np.arange(wide)
        here = rows * width + columns
        crops = pixels_in.index_select(0, _index(here, x)).view(-1, tall, wide, channels).permute(0, 3, 1, 2)
        inside = (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)
        done = _rows(work(crops)).index_select(0, _index(np.flatnonzero(inside), x))
        pixels_out.index_copy_(0, _index(here[inside], x), done)
    return out


def crop_size(pixels: int, cells: int, halo: int) -> int:
    """Return the side of a crop in pixels, for a side of the frame with `cells` cells."""
    return min(-(-pixels // cells) + 2 * halo, pixels)


def cell_starts(pixels: int, cells: int) -> list[int]:
    """Return the first pixel of each cell, for a side of the frame with `cells` cells."""
    return [i * pixels // cells for i in range(cells)]


def _rows(x: Tensor) -> Tensor:
    """Reshape [B, C, H, W] to [B H W, C]; a view if channels are last in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _index(pixels: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(pixels.ravel()).to(like.device, non_blocking=True)
