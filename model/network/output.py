"""From the network's residual to the integers of the HR frame.

All tensors keep the memory order of the output. A convolution computes the bilinear enlargement: it makes the s x s
HR pixels of each feature pixel (`NetworkConfig.stride`). Rows of HR pixels move as words.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn

from model.network.kernels import convolve

STRIP = 131072
"""HR pixels that one pass converts: in float32 they stay in the cache."""
_STEPS = {torch.uint8: torch.int16, torch.uint16: torch.int32}
"""Integers between float32 and the integers of frames: two fast conversions take a third of the time of one."""


def write_pixels(out: Tensor, lr: Tensor, residual: Tensor, *, whole: bool = False) -> None:
    """Write the enlarged `lr` plus the residual to `out` [s h, s w, 3], integers rounded to the nearest.

    `lr` [1, 3 f f, h + 2, w + 2] in [0, 1], float32, includes one feature pixel around the region. `residual` comes
    from `BasicVSR.residual` for h x w feature pixels. The sum is float32 for every number format of the network: near
    1, a step of bfloat16 is half a level of 255. `whole` converts everything in one pass, as suits an accelerator.
    """
    h, w = lr.shape[-2] - 2, lr.shape[-1] - 2
    side = residual.shape[-2] // h
    stride = side if residual.shape[1] == 3 else math.isqrt(residual.shape[1] // 3)
    rows = h if whole else max(STRIP // (stride * stride * w), 1)
    for top in range(0, h, rows):
        end = min(top + rows, h)
        part = residual[..., top * side : end * side, :]
        _write_strip(out[top * stride : end * stride], lr[..., top : end + 2, :], part, stride)


def _write_strip(out: Tensor, lr: Tensor, residual: Tensor, stride: int) -> None:
    h, w = lr.shape[-2] - 2, lr.shape[-1] - 2
    enlarge = _bilinear(math.isqrt(lr.shape[1] // 3), stride, lr.device)
    lr = lr.contiguous(memory_format=torch.channels_last)
    if residual.shape[1] == 3:
        enlarged = convolve(enlarge, lr)[0].permute(1, 2, 0).contiguous()  # a copy only for frames of one pixel
        pixels = _by_row(enlarged, stride).reshape(h * stride, w * stride, 3)
        out.copy_(_quantised(pixels.add_(residual[0].permute(1, 2, 0)), out.dtype))
        return
    wide = residual.to(torch.float32, memory_format=torch.channels_last, copy=True)
    whole = convolve(enlarge, lr, plus=wide, in_place=True)[0].permute(1, 2, 0).contiguous()
    # A row of a feature pixel has at least twelve bytes (or 16-bit words): it moves as three or more 32-bit integers.
    pixels = _by_row(_quantised(whole, out.dtype), stride)
    out.view(h, stride, w, stride * 3).view(torch.int32).copy_(pixels.view(torch.int32))


def _by_row(pixels: Tensor, stride: int) -> Tensor:
    """Reorder [h, w, 3 s s], the HR pixels of each feature pixel by row, column, colour, to [h, s, w, 3 s], a view."""
    h, w, _ = pixels.shape
    return pixels.view(h, w, stride, stride * 3).transpose(1, 2)


def _quantised(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Round floats in [0, 1] to the nearest integers. Overwrites `pixels`."""
    peak = 255.0 if dtype == torch.uint8 else 65535.0
    return pixels.mul_(peak).round_().clamp_(0.0, peak).to(_STEPS[dtype]).to(dtype)


@cache
def _bilinear(fold: int, stride: int, device: torch.device) -> nn.Conv2d:
    """Return a convolution that enlarges folded RGB feature pixels; HR pixels by row, column, colour."""
    centres = (torch.arange(stride) + 0.5) * fold / stride - 0.5  # of the HR pixels, in LR pixels
    pixels = torch.arange(-fold, 2 * fold)  # LR pixels of the feature pixel before, of the same, and of the one after
    taps = (1 - (centres[:, None] - pixels).abs()).clamp(min=0).view(stride, 3, fold)
    with torch.inference_mode(False):  # parameters of networks have a version, inference tensors have none
        conv = nn.Conv2d(3 * fold * fold, 3 * stride**2, 3, bias=False).requires_grad_(False)
        conv.weight[:] = torch.einsum("yip,xjq,ck->yxckpqij", taps, taps, torch.eye(3)).reshape(conv.weight.shape)
        return conv.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
