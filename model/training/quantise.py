"""Choose the scales of a network's integers (`model.network.quantised`) from clips.

The network in float32 runs over the clips, and every convolution records a sample of its input. Per convolution:

1. The range of the input is the one with the least squared error of the output: values weigh as much as the weights of
   their channel. Rare large values beyond the range become the largest integer.
2. The scale of each output channel's weights has the least squared error too: weights count as much as the mean square
   of their input.
3. The bias makes up for the mean error of both.

Deterministic: fixed grids of pixels and of candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from model.network.basicvsr import BasicVSR, ResidualBlock
from model.network.quantised import LEVELS, MOST_WEIGHT, Quantisation, Range, rounded
from model.training.data import to_model
from model.training.prepare import Frames

STEP: Final = 41
"""Every 41st pixel, in the order of rows, enters the sample."""
MOST: Final = 20_000
"""Pixels of the sample from which a range is chosen."""
RANGES = tuple(1 - 0.03 * step for step in range(28))
"""Candidates for a range, as parts of the range from the least to the largest value."""
WEIGHT_SCALES = tuple(1 - 0.025 * step for step in range(20))
"""Candidates for a weight's scale, as parts of the scale for the largest weight."""


def block_convolutions(network: nn.Module) -> list[str]:
    """Return the names of all convolutions in residual blocks."""
    blocks = [name for name, module in network.named_modules() if isinstance(module, ResidualBlock)]
    return [f"{name}.{part}" for name in blocks for part in ("conv1", "conv2")]


def calibrate(network: BasicVSR, names: Iterable[str], clips: Iterable[Frames]) -> dict[str, Quantisation]:
    """Choose scales for the convolutions `names` from LR clips [T, h, w, 3]; the network is float32 on the CPU."""
    samples: dict[str, list[Tensor]] = {name: [] for name in names}
    with _recorded(network, samples):
        for clip in clips:
            network(to_model(torch.from_numpy(clip)[None].clone(), torch.device("cpu")))
    return {name: chosen(_conv(network, name), torch.cat(parts)) for name, parts in samples.items()}


def chosen(conv: nn.Conv2d, sample: Tensor) -> Quantisation:
    """Choose the numbers of a convolution from a sample [N, in] of its input's pixels."""
    weight, bias = conv.weight.detach().float(), conv.bias
    assert bias is not None
    range_ = _range(sample[:: -(-len(sample) // MOST)], weight.square().sum((0, 2, 3)))
    scale = _weight_scale(weight, sample.square().mean(0))
    taps, integers = weight.sum((2, 3)), (rounded(weight, scale) * scale.view(-1, 1, 1, 1)).sum((2, 3))
    error = taps @ sample.mean(0) - integers @ _rounded_to(sample, range_).mean(0)
    return Quantisation(range_, scale, bias.detach().float() + error)


def _range(sample: Tensor, importance: Tensor) -> Range:
    """Choose the range with the least squared error of a sample [N, in]; channels have an importance [in]."""
    low, high = min(float(sample.min()), 0.0), max(float(sample.max()), 0.0)
    width = max(high - low, 1e-6)
    candidates = [Range(width * part / LEVELS, round(-low / width * LEVELS)) for part in RANGES]

    def error(range_: Range) -> float:
        return float(((_rounded_to(sample, range_) - sample).square().mean(0) @ importance).double())

    return min(candidates, key=error)


def _rounded_to(x: Tensor, range_: Range) -> Tensor:
    return (x / range_.scale).round_().clamp_(-range_.zero, LEVELS - range_.zero).mul_(range_.scale)


def _weight_scale(weight: Tensor, power: Tensor) -> Tensor:
    """Choose the scale [out] of a weight [out, in, h, w] whose input has the mean square `power` [in]."""
    largest = weight.abs().amax((1, 2, 3)).clamp(min=1e-8) / MOST_WEIGHT
    scales = torch.stack([largest * part for part in WEIGHT_SCALES])
    errors = [(rounded(weight, scale) * scale.view(-1, 1, 1, 1) - weight).square() for scale in scales]
    costs = torch.stack([torch.einsum("ocyx,c->o", error, power) for error in errors])
    return scales.gather(0, costs.argmin(0)[None])[0]


@contextmanager
def _recorded(network: BasicVSR, samples: dict[str, list[Tensor]]) -> Iterator[None]:
    """Record a sample of the inputs of convolutions. With gradients enabled, all of them run as modules."""

    def record(into: list[Tensor], _: nn.Module, given: Any) -> None:
        pixels = given[0].detach().float().permute(0, 2, 3, 1).flatten(0, 2)
        into.append(pixels[::STEP].clone())

    hooks = [_conv(network, name).register_forward_pre_hook(partial(record, parts)) for name, parts in samples.items()]
    learns = [parameter.requires_grad for parameter in network.parameters()]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            network.requires_grad_(False)
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, before in zip(network.parameters(), learns, strict=True):
            parameter.requires_grad_(before)


def _conv(network: nn.Module, name: str) -> nn.Conv2d:
    conv = network.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv
