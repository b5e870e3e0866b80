"""Large frames pass trunks and upsamplers in bands, which change no byte."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from model.engine import bands
from model.engine.upscaler import Upscaler
from model.mask.rectangles import Rectangle
from model.network.basicvsr import BasicVSR, NetworkConfig


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("coupled", [False, True])
def test_bands_of_a_trunk_change_nothing(coupled: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = BasicVSR(NetworkConfig(8, 1, "light", "light", coupled=coupled))
    model = Upscaler("seeded", network, "seeded:0", torch.device("cpu"), dtype)
    frames = np.random.default_rng(0).integers(0, 256, (3, 37, 24, 3), np.uint8)
    whole = model.forward(frames, None, lookahead=0, last=True).frames
    seen: list[int] = []
    plainly = model.network.backward_trunk.forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape[-2])
        return plainly(x)

    monkeypatch.setattr(model.network.backward_trunk, "forward", forward)
    monkeypatch.setattr(bands, "MAPPED_BYTES", 20 * 24 * 8 * dtype.itemsize)  # twenty rows
    monkeypatch.setattr(bands, "LEAST_GAIN", 1)
    assert np.array_equal(model.forward(frames, None, lookahead=0, last=True).frames, whole)
    assert len(seen) == 3 * 3
    assert max(seen) <= 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tail", ["full", "light"])
def test_rows_around_a_band_of_the_upsampler_change_nothing(tail: Literal["full", "light"], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = BasicVSR(NetworkConfig(16, 1, "light", tail))
    network = Upscaler("seeded", network, "seeded:0", torch.device("cpu"), dtype).network
    feat, back = (torch.randn(1, 16, 24, 13).to(dtype).contiguous(memory_format=torch.channels_last) for _ in "ab")
    with torch.inference_mode():
        whole = network.residual(back, feat)
        side = whole.shape[-2] // 24
        for top, end in ((0, 1), (1, 9), (7, 17), (15, 23), (23, 24)):  # also one row from an edge
            above, below = min(top, bands.tail_halo(network)), min(24 - end, bands.tail_halo(network))
            rows = slice(top - above, end + below)
            band = network.residual(back[..., rows, :], feat[..., rows, :], above, below)
            assert torch.equal(band, whole[..., side * top : side * end, :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bands_of_a_full_upsampler_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = BasicVSR(NetworkConfig(16, 1, "light", "full"))
    model = Upscaler("seeded", network, "seeded:0", torch.device("cpu"), dtype)
    frames = np.random.default_rng(0).integers(0, 256, (2, 41, 24, 3), np.uint8)
    whole = model.forward(frames, None, lookahead=0, last=True).frames
    assert bands.tail_bands(model.network, Rectangle(0, 0, 41, 24)) == [Rectangle(0, 0, 41, 24)]
    monkeypatch.setattr(bands, "MAPPED_BYTES", 13 * 24 * 64 * 16 * dtype.itemsize)
    monkeypatch.setattr(bands, "LEAST_TAIL_ROWS", 4)
    heights = [band.height for band in bands.tail_bands(model.network, Rectangle(0, 0, 41, 24))]
    assert heights == [8, 8, 8, 8, 9]  # with two rows on each side, and another for the block's header, thirteen
    assert np.array_equal(model.forward(frames, None, lookahead=0, last=True).frames, whole)
