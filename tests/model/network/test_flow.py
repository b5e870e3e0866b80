"""Sampling from a table of features, and the matching costs of the light flow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from model.network.flow import FeatureTable, LightLevel, warp


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_samples_in_its_own_number_format_as_a_frame_is_sampled(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 14).to(dtype).contiguous(memory_format=torch.channels_last)
    flow = torch.randn(2, 2, 5, 6) * 6  # far beyond the edges too
    from_table = warp(FeatureTable.of(x), flow, origin=(2, 3))
    assert from_table.dtype == dtype
    expected = warp(x.float(), flow, origin=(2, 3))
    assert (from_table.float() - expected).abs().max() < (1e-5 if dtype == torch.float32 else 0.03)


def test_a_still_picture_comes_out_of_a_bfloat16_table_bit_for_bit() -> None:
    x = torch.randn(1, 8, 5, 7).bfloat16().contiguous(memory_format=torch.channels_last)
    assert torch.equal(warp(FeatureTable.of(x), torch.zeros(1, 2, 5, 7)), x)


@pytest.mark.parametrize("size", [(6, 9), (1, 4), (2, 1)])
def test_costs_are_means_over_the_pixels_inside_the_frame(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ref, supp = torch.rand(2, 2, 1, *size).unbind(0)
    h, w = size
    around = F.pad(supp, (1, 1, 1, 1), mode="replicate")
    apart = torch.cat([(around[..., y : y + h, x : x + w] - ref).abs() for y in range(3) for x in range(3)], 1)
    means = 10 * F.avg_pool2d(apart, 3, 1, 1, count_include_pad=False)
    assert torch.allclose(LightLevel._costs(ref, supp), means - means.mean(1, keepdim=True), atol=1e-5)


def test_costs_pass_gradients_also_after_inference() -> None:
    ref, supp = torch.rand(2, 1, 1, 5, 8).unbind(0)
    with torch.inference_mode():
        LightLevel._costs(ref, supp)
    supp = supp.clone().requires_grad_()
    LightLevel._costs(ref, supp).square().sum().backward()  # type: ignore[no-untyped-call]
    assert supp.grad is not None
    assert supp.grad.abs().sum() > 0
