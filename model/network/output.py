"""From the network's residual to the integers of the HR frame.

All tensors keep the memory order of the output. A convolution computes the bilinear enlargement: it makes the s x s
sub-pixels of each LR pixel. Rows of sub-pixels move as one word.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def write_pixels(out: Tensor, lr: Tensor, residual: Tensor) -> None:
    """Write the enlarged `lr` plus the residual to `out` [s h, s w, 3], integers rounded to the nearest.

    `lr` [1, 3, h + 2, w + 2] in [0, 1], float32, includes one pixel around the region. `residual` comes from
    `BasicVSR.residual` for h x w. The sum is float32 for every number format of the network: near 1, a step of bfloat16
    is half a level of 255.
    """
    h, w = lr.shape[-2] - 2, lr.shape[-1] - 2
    scale = out.shape[0] // h
    enlarged = F.conv2d(lr.contiguous(memory_format=torch.channels_last), _bilinear(scale, lr.device))[0]
    enlarged = enlarged.permute(1, 2, 0).contiguous()  # a copy only for frames of one pixel
    if residual.shape[1] == 3:
        pixels = _by_row(enlarged, scale).reshape(h * scale, w * scale, 3)
        out.copy_(_quantised(pixels.add_(residual[0].permute(1, 2, 0)), out.dtype))
        return
    pixels = _quantised(enlarged.add_(residual[0].permute(1, 2, 0)), out.dtype)
    # At scale 4 a row of sub-pixels has twelve bytes (or 16-bit words): it moves as three (or six) 32-bit integers.
    out.view(h, scale, w, scale * 3).view(torch.int32).copy_(_by_row(pixels, scale).view(torch.int32))


def _by_row(pixels: Tensor, scale: int) -> Tensor:
    """Reorder [h, w, 3 s s] sub-pixels by row, column, colour to [h, s, w, 3 s], a view."""
    h, w, _ = pixels.shape
    return pixels.view(h, w, scale, scale * 3).transpose(1, 2)


def _quantised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Round floats in [0, 1] to the nearest integers. Overwrites `pixels`."""
    peak = 255.0 if dtype == torch.uint8 else 65535.0
    return pixels.mul_(peak).round_().clamp_(0.0, peak).to(dtype)


@cache
def _bilinear(scale: int, device: torch.device) -> Tensor:
    """Weights [3 s s, 3, 3, 3] that enlarge an RGB image `scale` times; sub-pixels by row, column, colour."""
    offsets = (torch.arange(scale) + 0.5) / scale - 0.5
    distance = (offsets[:, None] - torch.arange(-1, 2)).abs()  # [s, 3]: to the pixel before, the same pixel, after
    taps = (1 - distance).clamp(min=0)
    weights = torch.einsum("yi,xj,ck->yxckij", taps, taps, torch.eye(3)).reshape(-1, 3, 3, 3)
    return weights.to(device).contiguous(memory_format=torch.channels_last)
