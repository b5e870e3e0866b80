"""From the network's residual to the integers of the HR frame.

All tensors keep the memory order of the output. A convolution computes the bilinear enlargement: it makes the 4 x 4
HR pixels of each feature pixel (`model.network.folding`). Rows of HR pixels move as one word.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.folding import STRIDE


def write_pixels(out: Tensor, lr: Tensor, residual: Tensor) -> None:
    """Write the enlarged `lr` plus the residual to `out` [4 h, 4 w, 3], integers rounded to the nearest.

    `lr` [1, 3 f f, h + 2, w + 2] in [0, 1], float32, includes one feature pixel around the region. `residual` comes
    from `BasicVSR.residual` for h x w feature pixels. The sum is float32 for every number format of the network: near
    1, a step of bfloat16 is half a level of 255.
    """
    h, w = lr.shape[-2] - 2, lr.shape[-1] - 2
    fold = math.isqrt(lr.shape[1] // 3)
    enlarged = F.conv2d(lr.contiguous(memory_format=torch.channels_last), _bilinear(fold, lr.device))[0]
    enlarged = enlarged.permute(1, 2, 0).contiguous()  # a copy only for frames of one pixel
    if residual.shape[1] == 3:
        pixels = _by_row(enlarged).reshape(h * STRIDE, w * STRIDE, 3)
        out.copy_(_quantised(pixels.add_(residual[0].permute(1, 2, 0)), out.dtype))
        return
    pixels = _quantised(enlarged.add_(residual[0].permute(1, 2, 0)), out.dtype)
    # A row of a feature pixel has twelve bytes (or 16-bit words): it moves as three (or six) 32-bit integers.
    out.view(h, STRIDE, w, STRIDE * 3).view(torch.int32).copy_(_by_row(pixels).view(torch.int32))


def _by_row(pixels: Tensor) -> Tensor:
    """Reorder [h, w, 48], the HR pixels of each feature pixel by row, column, colour, to [h, 4, w, 12], a view."""
    h, w, _ = pixels.shape
    return pixels.view(h, w, STRIDE, STRIDE * 3).transpose(1, 2)


def _quantised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Round floats in [0, 1] to the nearest integers. Overwrites `pixels`."""
    peak = 255.0 if dtype == torch.uint8 else 65535.0
    return pixels.mul_(peak).round_().clamp_(0.0, peak).to(dtype)


@cache
def _bilinear(fold: int, device: torch.device) -> Tensor:
    """Weights [48, 3 f f, 3, 3] that enlarge folded RGB feature pixels; HR pixels by row, column, colour."""
    centres = (torch.arange(STRIDE) + 0.5) * fold / STRIDE - 0.5  # of the HR pixels, in LR pixels
    pixels = torch.arange(-fold, 2 * fold)  # LR pixels of the feature pixel before, of the same, and of the one after
    taps = (1 - (centres[:, None] - pixels).abs()).clamp(min=0).view(STRIDE, 3, fold)
    weights = torch.einsum("yip,xjq,ck->yxckpqij", taps, taps, torch.eye(3)).reshape(-1, 3 * fold * fold, 3, 3)
    return weights.to(device).contiguous(memory_format=torch.channels_last)
