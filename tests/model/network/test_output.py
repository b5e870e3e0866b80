"""HR pixels: the sum of enlarged frame and residual, rounded to the nearest integer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.network import output
from model.network.folding import fold, padded, unfold
from model.network.output import write_pixels


def written(lr: Tensor, residual: Tensor, f: int, dtype: torch.dtype) -> Tensor:
    h, w = -(-lr.shape[-2] // f), -(-lr.shape[-1] // f)
    out = torch.zeros(4 * h, 4 * w, 3, dtype=dtype)
    with torch.inference_mode():
        write_pixels(out, padded(fold(lr, f), f).contiguous(memory_format=torch.channels_last), residual)
    return out


def in_order(residual: Tensor) -> Tensor:
    """[1, 48, h, w], HR pixels by row, column, colour, as an image [1, 3, 4 h, 4 w]."""
    _, _, h, w = residual.shape
    return residual.view(1, 4, 4, 3, h, w).permute(0, 3, 4, 1, 5, 2).reshape(1, 3, 4 * h, 4 * w)


@pytest.mark.parametrize("f", [1, 2])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16])
def test_pixels_are_the_nearest_integers_to_the_sum(f: int, dtype: torch.dtype, narrow: torch.dtype) -> None:
    torch.manual_seed(0)
    lr = torch.rand(1, 3, 10, 14)  # some sums lie below zero and above one
    residual = (torch.randn(1, 48, 10 // f, 14 // f) * 0.3).to(narrow).contiguous(memory_format=torch.channels_last)
    kept, peak = residual.clone(), torch.iinfo(dtype).max
    plain = F.interpolate(unfold(fold(lr, f), f), scale_factor=4 // f, mode="bilinear") + in_order(residual.float())
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
    for pixels in (1, 14, 28):
        monkeypatch.setattr(output, "STRIP", pixels)
        assert torch.equal(written(lr, residual, 1, torch.uint8), whole)
