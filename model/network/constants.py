"""Small constant tensors, made once for each device.

`Tensor.new_tensor` on a GPU is a blocking copy: the host waits for all work of the device.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a float32 tensor [len(values)] on a device. Nobody writes to the tensor."""
    with torch.inference_mode(False):  # training saves the tensor for the gradient
        return torch.tensor(values, dtype=torch.float32, device=device)
