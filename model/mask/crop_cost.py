"""What one more crop costs beside its pixels: where leaving work out begins to pay.

A convolution's call costs the same whatever its crop; what that is worth in pixels depends on how fast the pixels are.
A table, not a measurement at load: plans are made from it, and a job that is resumed on the same kind of machine makes
the same ones.
"""

from __future__ import annotations

import torch

from model.network.basicvsr import NetworkConfig

FULL = 1300
"""BasicVSR. Measured on two cores with AMX, by pairs of dense and routed runs. On two cores with AVX2 only, a trunk on
8x8 to 48x48 pixels takes as long as 245 to 95 more pixels of a whole frame; but with 600 or 150 the boxes follow single
tiles, and miss slow motion between them: 0.02 and 0.07 dB less on a flower in the wind (`model/LOG.md`)."""
LIGHT_FAST, LIGHT_BF16, LIGHT_SLOW = 12_000, 4000, 1200
"""Networks with a light tail, whose pixels cost a tenth, measured with `small`: with AMX; in float32 with AVX2 only
(a trunk on 8x8 to 48x48 pixels takes as long as 780 to 1210 more). With AVX512-BF16 alone it is in between by the
pixels' speed, not measured; nor are GPUs, which go by the first."""


def crop_overhead(config: NetworkConfig, device: torch.device, dtype: torch.dtype) -> int:
    """What a crop costs that network there, in LR pixels of the dense pass."""
    if config.tail == "full":
        return FULL
    if device.type != "cpu":
        return LIGHT_FAST
    if dtype == torch.float32:
        return LIGHT_SLOW
    return LIGHT_FAST if torch.cpu._is_amx_tile_supported() else LIGHT_BF16
