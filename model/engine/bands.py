"""Trunks and upsamplers of large frames in bands of rows: tensors stay small enough for memory that the process keeps.

Larger blocks of memory come fresh from the system (`model.engine.memory`), which costs a fifth of the time of `small`
(measured at 1280x720) and an eighth of BasicVSR's upsampler (320x180, float32).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from model.engine.memory import MAPPED_BYTES
from model.mask.rectangles import Rectangle
from model.network.basicvsr import BasicVSR, Trunk

LEAST_GAIN = 10
"""Least height of a band, as a multiple of the rows that the band computes a second time."""
TAIL_HALO = 2
"""Feature pixels that the convolutions of a full upsampler see (1 + 1/2 + 1/4 + 1/4): such bands are exact."""
LEAST_TAIL_ROWS = 16
"""Least height of a band of a full upsampler: lower bands compute many rows twice."""
LIGHT_TAIL_PIXELS = 65536
"""Approximate number of feature pixels in a band of a light upsampler."""
ACCELERATED_TAIL_PIXELS = {"full": 2**18, "light": 2**21}
"""Feature pixels in a band on an accelerator, where bands only bound the memory: about 2 GB."""


def run_in_bands(trunk: Trunk, x: Tensor) -> Tensor:
    """Compute `trunk(x)`, [B, in, H, W] -> [B, C, H, W], bit for bit, at once or in bands of rows.

    Each band includes the surrounding rows that its convolutions read. A trunk that sees too many rows runs at once.
    """
    b, _, h, w = x.shape
    halo, channels = 2 * len(trunk.blocks) + 1, trunk.channels
    dtype = trunk.entry.weight.dtype  # `x` may be integers
    row = b * w * channels * dtype.itemsize
    rows = MAPPED_BYTES // row - 1 - 2 * halo  # one row less: a block of memory has a header
    if h <= rows + 2 * halo or rows < 2 * halo * LEAST_GAIN:
        return trunk(x)  # type: ignore[no-any-return]
    count = -(-h // rows)
    out = x.new_empty(b, h, w, channels, dtype=dtype).permute(0, 3, 1, 2)
    for top, end in pairwise(h * i // count for i in range(count + 1)):
        first = max(top - halo, 0)
        band = x[..., first : end + halo, :].contiguous(memory_format=torch.channels_last)
        out[..., top:end, :] = trunk(band)[..., top - first : end - first, :]
    return out


def tail_halo(network: BasicVSR) -> int:
    """Return the feature pixels around a band that the upsampler sees."""
    return TAIL_HALO if network.config.tail == "full" else 1


def tail_bands(network: BasicVSR, rectangle: Rectangle, count: int = 1) -> list[Rectangle]:
    """Split a rectangle of `count` frames into bands of rows for the upsampler, as equal as possible."""
    bands = -(-rectangle.height // _tail_rows(network, rectangle.width * count))
    cuts = (rectangle.y0 + rectangle.height * i // bands for i in range(bands + 1))
    return [Rectangle(top, rectangle.x0, end, rectangle.x1) for top, end in pairwise(cuts)]


def _tail_rows(network: BasicVSR, width: int) -> int:
    """Return the most rows of `width` feature pixels in a band of the upsampler."""
    tail = network.config.tail
    if network.accelerated:
        return max(ACCELERATED_TAIL_PIXELS[tail] // width, 4)
    if tail == "light":
        return max(LIGHT_TAIL_PIXELS // width, 4)
    largest = network.conv_hr.in_channels * network.stride**2 * network.dtype.itemsize  # the second stage's result
    return max(MAPPED_BYTES // (largest * width) - TAIL_HALO - 1, LEAST_TAIL_ROWS)  # one row less, as above
