"""What one more crop costs beside its pixels: where leaving work out begins to pay.

A convolution's call costs the same whatever its crop; what that is worth in pixels depends on how fast the pixels are.
A table, not a measurement at load: plans are made from it, and a job that is resumed has to make the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.network import NetworkConfig


@dataclass(frozen=True)
class CropCost:
    """In LR pixels of the dense pass."""

    trunk: int
    """Of a crop that goes through trunk and upsampler."""
    tail: int
    """Of one that goes through the upsampler only, in pixels of that."""


_FULL = {"amx": CropCost(1300, 200), "avx512-bf16": CropCost(900, 120), "fp32": CropCost(600, 80)}
"""BasicVSR (64 channels, 30 blocks, full tail). amx: from pairs of dense and routed runs, two cores with AMX. fp32: on
two cores with AVX2 a trunk on 8x8 to 48x48 pixels takes as long as 245 to 95 more pixels of a whole frame (37 us each),
the upsampler 80 to 100 (31 us). With 150 the boxes follow single tiles, and slow motion between them is missed: 0.07 dB
less on a flower in the wind, for 0 to 12 % of time; hence 600. avx512-bf16: in between, not measured. GPUs go by the
first."""
_LIGHT = {"amx": CropCost(12_000, 12_000), "avx512-bf16": CropCost(4000, 4000), "fp32": CropCost(1200, 1200)}
"""Networks with a light tail, measured with `small` likewise (fp32: 780 to 1210 pixels of 1.3 us)."""


def crop_cost(config: NetworkConfig, device: torch.device, dtype: torch.dtype) -> CropCost:
    """What a crop costs that network, there."""
    table = _LIGHT if config.tail == "light" else _FULL
    return table[_kind(device, dtype)]


def _kind(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cpu" and dtype == torch.float32:
        return "fp32"
    if device.type == "cpu" and not torch.cpu._is_amx_tile_supported():
        return "avx512-bf16"
    return "amx"
