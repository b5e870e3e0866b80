"""Fused convolutions: whether they are found where they are, and that a weight's layout changes no number."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from model.network import kernels
from model.network.basicvsr import Blocks, ResidualBlock


def test_the_fused_operation_is_found_in_inference_mode_too() -> None:
    cpu = torch.device("cpu")
    kernels._fuses.cache_clear()
    outside = kernels._fuses(cpu, torch.float32)
    kernels._fuses.cache_clear()
    with torch.inference_mode():
        assert kernels._fuses(cpu, torch.float32) == outside


@pytest.mark.parametrize("side", [7, 40])
def test_weights_in_the_librarys_layout_give_the_same_bits(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv2d(16, 16, 3, 1, 1).requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(1, 16, side, side).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        packed = kernels.convolve(conv, x, "relu")
        monkeypatch.setattr(kernels, "PACKED_BELOW", 0)
        assert torch.equal(kernels.convolve(conv, x, "relu"), packed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("out", "side", "width", "lanes", "count"),
    [(3, 3, 24, 16, 4), (2, 7, 24, 16, 8), (2, 3, 14, 16, 2), (3, 3, 15, 16, 1), (3, 3, 24, 8, 2), (20, 3, 16, 16, 1)],
)
def test_convolutions_with_few_outputs_compute_several_pixels_at_once(
    out: int, side: int, width: int, lanes: int, count: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(16, out, side, 1, side // 2).requires_grad_(False)
    conv = conv.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 16, 9, width).to(dtype).contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(kernels, "_lanes", lambda: lanes)
    assert kernels._pixels_at_once(conv, width) == count
    with torch.inference_mode():
        for activation in ("none", "relu"):
            found, wanted = kernels.convolve(conv, x, activation), kernels._plainly(conv, x, activation, None)
            assert found.is_contiguous(memory_format=torch.channels_last)
            assert torch.allclose(found.float(), wanted.float(), atol=1e-5 if dtype == torch.float32 else 0.02)


def test_only_plain_convolutions_compute_several_pixels_at_once() -> None:
    for conv in (
        nn.Conv2d(8, 2, 3),
        nn.Conv2d(8, 2, 3, 2, 1),
        nn.Conv2d(8, 2, 3, 1, 2, dilation=2),
        nn.Conv2d(8, 2, 3, 1, 1, groups=2),
    ):
        assert kernels._pixels_at_once(conv, 16) == 1


def test_a_network_that_has_run_can_be_copied() -> None:
    conv = nn.Conv2d(16, 16, 3, 1, 1).requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(1, 16, 9, 9).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        wanted = kernels.convolve(conv, x)
    copied = copy.deepcopy(conv)
    with torch.inference_mode():
        assert torch.equal(kernels.convolve(copied, x), wanted)


def test_a_changed_weight_is_laid_out_anew() -> None:
    conv = nn.Conv2d(16, 16, 3, 1, 1).requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(1, 16, 9, 9).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        before = kernels.convolve(conv, x)
        conv.weight.mul_(2)
        after = kernels.convolve(conv, x)
        conv.to(torch.float64).to(torch.float32)  # the same numbers, elsewhere
        assert torch.equal(kernels.convolve(conv, x), after)
        assert torch.allclose(
            after - conv.bias.view(1, -1, 1, 1), 2 * (before - conv.bias.view(1, -1, 1, 1)), atol=1e-5
        )


def test_with_its_remainder_a_pixel_counts_in_bfloat16_as_in_float32() -> None:
    conv = nn.Conv2d(1, 16, (1, 2)).requires_grad_(False)
    conv.weight[:] = torch.tensor([-1.0, 1.0])
    conv.bias.zero_()
    levels = torch.arange(256.0).view(1, 1, 1, 256) / 255
    step = torch.full((1, 16, 1, 255), 1 / 255)
    both = kernels.with_remainder(levels, torch.bfloat16)
    conv = conv.bfloat16()
    with torch.inference_mode():
        assert torch.allclose(kernels.convolve(conv, both).float(), step, rtol=0.01)
        assert not torch.allclose(kernels.convolve(conv, both[:, :1]).float(), step, rtol=0.4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_keep_what_they_are_given_and_add_in_place_what_they_made(dtype: torch.dtype) -> None:
    blocks = Blocks(*(ResidualBlock(16) for _ in range(3))).requires_grad_(False).to(dtype)
    blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(1, 16, 9, 9).to(dtype).contiguous(memory_format=torch.channels_last)
    kept = x.clone()
    with torch.inference_mode():
        wanted = blocks[2](blocks[1](blocks[0](x)))
        assert torch.equal(blocks(x), wanted)
        assert torch.equal(blocks[:1](x), blocks[0](x))
    assert torch.equal(x, kept)
