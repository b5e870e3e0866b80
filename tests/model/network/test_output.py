"""HR pixels: the sum of enlarged frame and residual, rounded to the nearest integer."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.network import output
from model.network.folding import fold, padded, unfold
from model.network.output import write_pixels


def written(lr: Tensor, residual: Tensor, f: int, dtype: torch.dtype) -> Tensor:
    h, w = -(-lr.shape[-2] // f), -(-lr.shape[-1] // f)
    side = stride_of(residual, h)
    out = torch.zeros(side * h, side * w, 3, dtype=dtype)
    with torch.inference_mode():
        write_pixels(out, padded(fold(lr, f), f).contiguous(memory_format=torch.channels_last), residual)
    return out


def stride_of(residual: Tensor, h: int) -> int:
    return residual.shape[-2] // h if residual.shape[1] == 3 else math.isqrt(residual.shape[1] // 3)


def in_order(residual: Tensor) -> Tensor:
    """[1, 3 s s, h, w], HR pixels by row, column, colour, as an image [1, 3, s h, s w]."""
    _, _, h, w = residual.shape
    s = stride_of(residual, h)
    return residual.view(1, s, s, 3, h, w).permute(0, 3, 4, 1, 5, 2).reshape(1, 3, s * h, s * w)


@pytest.mark.parametrize(("f", "stride"), [(1, 4), (2, 4), (2, 8)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16])
def test_pixels_are_the_nearest_integers_to_the_sum(
    f: int, stride: int, dtype: torch.dtype, narrow: torch.dtype
) -> None:
    torch.manual_seed(0)
    lr = torch.rand(1, 3, 10, 14)  # some sums lie below zero and above one
    residual = (torch.randn(1, 3 * stride**2, 10 // f, 14 // f) * 0.3).to(narrow)
    residual = residual.contiguous(memory_format=torch.channels_last)
    kept, peak = residual.clone(), torch.iinfo(dtype).max
    plain = F.interpolate(unfold(fold(lr, f), f), scale_factor=stride // f, mode="bilinear")
    plain = plain + in_order(residual.float())
    expected = plain[0].permute(1, 2, 0).clamp(0, 1) * peak
    whole = written(lr, residual, f, dtype)
    assert (whole.float() - expected).abs().max() < 0.5 + 2e-6 * peak
    assert {0, peak} <= set(whole.flatten().tolist())
    assert torch.equal(residual, kept)


@pytest.mark.parametrize("channels", [3, 48])
def test_strips_change_nothing(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    lr, residual = torch.rand(1, 3, 9, 7), torch.randn(1, 48, 9, 7) * 0.1
    residual = in_order(residual) if channels == 3 else residual.contiguous(memory_format=torch.channels_last)
    whole = written(lr, residual, 1, torch.uint8)
    for pixels in (16, 224, 448):
        monkeypatch.setattr(output, "STRIP", pixels)
        assert torch.equal(written(lr, residual, 1, torch.uint8), whole)
