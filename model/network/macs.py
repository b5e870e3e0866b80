"""Count the multiply-accumulate operations of a network for one frame of a stream."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor, nn

from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.folding import fold

_SIDE: Final = 64


@lru_cache(maxsize=64)
def macs_per_pixel(config: NetworkConfig) -> float:
    """Return the multiply-accumulates for a pixel of a frame in mid-stream, without any weights."""
    with torch.device("meta"):
        return macs_per_frame(BasicVSR(config), _SIDE, _SIDE) / _SIDE**2


@torch.inference_mode()
def macs_per_frame(network: BasicVSR, height: int, width: int) -> int:
    """Count multiply-accumulates of all convolutions for one frame of `height` x `width` LR pixels in mid-stream.

    The count covers two flows, both branches and the reconstruction, without warping, interpolation and additions. The
    network runs on the meta device, which computes shapes only and calls every convolution as a module.
    """
    network = copy.deepcopy(network).to("meta")
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        kernel = module.kernel_size[0] * module.kernel_size[1]
        total += (
            output.shape[0]
            * output.shape[2]
            * output.shape[3]
            * kernel
            * module.in_channels
            // module.groups
            * (module.out_channels)
        )

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    try:
        frame = fold(torch.zeros(1, 3, height, width, device="meta"), network.fold)
        back = torch.zeros(1, network.config.channels, *frame.shape[-2:], dtype=network.dtype, device="meta")
        flow = network.flow(frame, frame)
        network.flow(frame, frame)
        back = network.backward_step(frame, back, flow)
        network.reconstruct(frame, back, network.forward_step(frame, back, back, flow))
    finally:
        for hook in hooks:
            hook.remove()
    return total
