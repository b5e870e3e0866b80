"""Count the multiply-accumulate operations of a network for one frame of a stream."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.folding import fold

SIDE: Final = 64
"""Side of the frame that `step_macs` counts, in feature pixels."""


@lru_cache(maxsize=64)
def macs_per_pixel(config: NetworkConfig) -> float:
    """Return the multiply-accumulates for a pixel of a frame in mid-stream, without any weights."""
    with torch.device("meta"):
        return macs_per_frame(BasicVSR(config), SIDE, SIDE) / SIDE**2


class StepMacs(NamedTuple):
    """Multiply-accumulates of the steps of one frame."""

    flow: int
    """In one direction."""
    backward: int
    forward: int
    output: int


_COUNTED: Final = {
    NetworkConfig(): StepMacs(1_309_875_840, 9_217_769_472, 9_217_769_472, 5_582_618_624),
    NetworkConfig(32, 4, "light", "light", coupled=True): StepMacs(17_625_600, 343_277_568, 381_026_304, 56_623_104),
    NetworkConfig(32, 4, "light", "light", coupled=True, scale=2): StepMacs(
        17_625_600, 353_894_400, 391_643_136, 56_623_104
    ),
    NetworkConfig(8, 1, "light", "light", coupled=True): StepMacs(17_625_600, 7_962_624, 10_321_920, 14_155_776),
}
"""Results of `macs_of_steps` for the packaged models: torch takes a second to import what counting needs."""


def step_macs(network: BasicVSR) -> StepMacs:
    """Return the multiply-accumulates of each step for one frame of `SIDE` x `SIDE` feature pixels in mid-stream."""
    side = SIDE * network.fold
    return _COUNTED.get(network.config) or macs_of_steps(network, side, side)


def macs_per_frame(network: BasicVSR, height: int, width: int) -> int:
    """Count multiply-accumulates of all convolutions for one frame of `height` x `width` LR pixels in mid-stream.

    The count covers two flows, both branches and the reconstruction.
    """
    steps = macs_of_steps(network, height, width)
    return sum(steps) + steps.flow


@torch.inference_mode()
def macs_of_steps(network: BasicVSR, height: int, width: int) -> StepMacs:
    """Count multiply-accumulates of each step for one frame of `height` x `width` LR pixels in mid-stream.

    The count covers all convolutions, without warping, interpolation and additions. The network runs on the meta
    device, which computes shapes only and calls every convolution as a module.
    """
    network = copy.deepcopy(network).to("meta")
    total = 0

    def counted() -> int:
        nonlocal total
        count, total = total, 0
        return count

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
        of_flow = counted()
        back = network.backward_step(frame, back, flow)
        of_backward = counted()
        feat = network.forward_step(frame, back, back, flow)
        of_forward = counted()
        network.reconstruct(frame, back, feat)
        return StepMacs(of_flow, of_backward, of_forward, counted())
    finally:
        for hook in hooks:
            hook.remove()
