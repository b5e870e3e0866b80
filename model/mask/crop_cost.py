"""Crop overhead: the fixed cost of one more crop, in LR pixels of dense work, for each kind of device.

Every call of a convolution has a fixed cost. Its worth in pixels depends on how fast the machine computes a pixel.
Plans depend on this number. A table gives the number. With a measurement at load, a job resumed on the same kind of
machine could get other plans.
"""

from __future__ import annotations

import torch

from model.network.basicvsr import NetworkConfig
from model.routing import WHOLE_FRAMES

FULL = 1300
"""Overhead for BasicVSR, measured on two cores with AMX by pairs of dense and routed runs. On two cores with AVX2 only,
a trunk on 8x8 to 48x48 pixels has an overhead of 245 to 95 pixels. With 600 or 150, however, rectangles follow single
tiles and miss slow motion between them: 0.02 and 0.07 dB less on a flower in the wind (lab notebook)."""
LIGHT_FAST, LIGHT_BF16, LIGHT_SLOW = 12_000, 4000, 600
"""Overheads for networks with a light tail, whose pixels cost a tenth. `python -m benchmarks.crop_cost` measures them
with `small` on one thread: one more crop costs 1070 pixels in bfloat16 with AVX512-BF16, 1350 to 1790 with blocks on
integers, and 470 in float32. The numbers are higher, since a crop with gates costs more, and steps on two threads cost
more than on one. The first is of two threads with AMX, where each of many small calls waits for the other core."""


def crop_overhead(config: NetworkConfig, device: torch.device, dtype: torch.dtype) -> int:
    """Return the overhead of one crop for a network on a device, in LR pixels of dense work.

    A crop takes as many kernel launches as a frame, and a gate makes the host wait for the device. On an accelerator
    that is worth 20,000 to 60,000 pixels (estimated, not measured): there frames are computed or reused whole.
    """
    if device.type != "cpu":
        return WHOLE_FRAMES
    if config.tail == "full":
        return FULL
    if dtype == torch.float32:
        return LIGHT_SLOW
    return LIGHT_FAST if torch.cpu._is_amx_tile_supported() else LIGHT_BF16
