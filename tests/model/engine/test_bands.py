"""Large frames pass the trunks in bands, which change no byte."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.engine import bands
from model.engine.upscaler import Upscaler
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
