"""From the network's residual to the integers of the HR frame.

Everything stays in the order of the output, pixel by pixel: the bilinear enlargement is computed as a convolution that
makes the 4 x 4 sub-pixels of each LR pixel, and rows of four sub-pixels are moved as one.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = 4


def write_pixels(out: Tensor, lr: Tensor, residual: Tensor) -> None:
    """Write `out` [4 h, 4 w, 3] integers: `lr` enlarged, plus what the network adds, rounded to the nearest.

    `lr` [1, 3, h + 2, w + 2] in [0, 1], float32: with the pixel around it; `residual` of h x w, as `BasicVSR.residual`
    gives it. The sum is float32 whatever the network's type: bfloat16 near 1 is as coarse as half a level of 255.
    """
    h, w = lr.shape[-2] - 2, lr.shape[-1] - 2
    enlarged = F.conv2d(lr.contiguous(memory_format=torch.channels_last), _bilinear(lr.device))[0]
    enlarged = enlarged.permute(1, 2, 0).contiguous()  # it is already, but for frames of a single pixel
    if residual.shape[1] == 3:
        pixels = _by_row(enlarged).reshape(h * SCALE, w * SCALE, 3)
        out.copy_(_quantised(pixels.add_(residual[0].permute(1, 2, 0)), out.dtype))
        return
    pixels = _quantised(enlarged.add_(residual[0].permute(1, 2, 0)), out.dtype)
    # Twelve bytes (or words) a row of sub-pixels are moved as three integers (or six).
    out.view(h, SCALE, w, SCALE * 3).view(torch.int32).copy_(_by_row(pixels).view(torch.int32))


def _by_row(pixels: Tensor) -> Tensor:
    """[h, w, 48] sub-pixels by row, column, colour -> [h, 4, w, 12], a view."""
    h, w, _ = pixels.shape
    return pixels.view(h, w, SCALE, SCALE * 3).transpose(1, 2)


def _quantised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats in [0, 1] -> integers, rounded to the nearest. Overwrites `pixels`."""
    peak = 255.0 if dtype == torch.uint8 else 65535.0
    return pixels.mul_(peak).round_().clamp_(0.0, peak).to(dtype)


@cache
def _bilinear(device: torch.device) -> Tensor:
    """Weights [48, 3, 3, 3] that enlarge an RGB image four times; sub-pixels by row, column, colour."""
    offsets = (torch.arange(SCALE) + 0.5) / SCALE - 0.5
    distance = (offsets[:, None] - torch.arange(-1, 2)).abs()  # [4, 3]: to the pixel before, here, after
    taps = (1 - distance).clamp(min=0)
    weights = torch.einsum("yi,xj,ck->yxckij", taps, taps, torch.eye(3)).reshape(-1, 3, 3, 3)
    return weights.to(device).contiguous(memory_format=torch.channels_last)
