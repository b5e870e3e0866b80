"""Trunks of large frames in bands of rows: tensors stay small enough for memory that the process keeps.

Larger blocks of memory come fresh from the system (`model.engine.memory`), which costs a fifth of the time of `small`
(measured at 1280x720).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from model.engine.memory import MAPPED_BYTES
from model.network.basicvsr import Trunk

LEAST_GAIN = 10
"""Least height of a band, as a multiple of the rows that the band computes a second time."""


def run_in_bands(trunk: Trunk, x: Tensor) -> Tensor:
    """Compute `trunk(x)`, [B, in, H, W] -> [B, C, H, W], bit for bit, at once or in bands of rows.

    Each band includes the surrounding rows that its convolutions read. A trunk that sees too many rows runs at once.
    """
    b, _, h, w = x.shape
    halo, channels = 2 * len(trunk.blocks) + 1, trunk.channels
    row = b * w * channels * x.element_size()
    rows = MAPPED_BYTES // row - 1 - 2 * halo  # one row less: a block of memory has a header
    if h <= rows + 2 * halo or rows < 2 * halo * LEAST_GAIN:
        return trunk(x)  # type: ignore[no-any-return]
    count = -(-h // rows)
    out = x.new_empty(b, h, w, channels).permute(0, 3, 1, 2)
    for top, end in pairwise(h * i // count for i in range(count + 1)):
        first = max(top - halo, 0)
        band = x[..., first : end + halo, :].contiguous(memory_format=torch.channels_last)
        out[..., top:end, :] = trunk(band)[..., top - first : end - first, :]
    return out
