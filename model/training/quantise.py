"""Choose the scales of a network's integers (`model.network.quantised`) from clips.

The network in float32 runs over the clips, and every convolution records a sample of its input. Per convolution:

1. Each channel of the input has a gain of its own. No feature that was seen lies beyond the largest integer: cut
   peaks are lost detail, and lose more dB than their squared error says (lab notebook). Behind a ReLU, each channel's
   gain has the least squared error; rare large values become the largest integer.
2. The zero point, and how far the gains of channels differ, have the least estimated error of the output: large gains
   make the weights differ more, which rounds the small ones.
3. Each output channel's weights get the scale with the least squared error, weighted by the power of their input.
4. The bias makes up for the mean error of all this.

Deterministic: seeded pixels, and fixed grids of candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from model.network.basicvsr import BasicVSR, ResidualBlock
from model.network.flow import LightLevel
from model.network.quantised import LEVELS, MOST_WEIGHT, Quantisation, rounded
from model.training.data import to_model
from model.training.prepare import Frames

PIXELS: Final = 160
"""Pixels of each frame that enter the sample."""
ZEROS: Final = (16, 32, 64, 96, 128, 160)
"""Candidates for the zero point of an input with negative values."""
PARTS: Final = tuple(1 - 0.08 * step for step in range(11))
"""Candidates for the range of a channel behind a ReLU, as parts of the range of all its values."""
POWERS: Final = (0.0, 0.5, 0.75, 1.0)
"""How far gains differ: not at all, ..., so far that each channel has its best."""
MOST_GAIN: Final = 64.0
"""Largest gain, over the least of the same input."""
UPSAMPLER: Final = ("upconv1", "upconv2", "conv_hr")
"""Convolutions of a full tail. Behind these layers, each error is an error of the HR frame (lab notebook)."""
SPYNET: Final = tuple(f"spynet.basic_module.{level}.basic_module.{place}" for level in (4, 5) for place in (2, 4, 6))
"""Wide convolutions of SPyNet's two finest levels, nearly all of its work. Errors of coarser flow would be enlarged."""
ENTRY: Final = "forward_trunk.main.0"
"""Input convolution of the forward trunk."""
WEIGHT_SCALES: Final = tuple(1 - 0.025 * step for step in range(20))
"""Candidates for a weight's scale, as parts of the scale for the largest weight."""


def block_convolutions(network: nn.Module) -> list[str]:
    """Return the names of all convolutions in residual blocks."""
    blocks = [name for name, module in network.named_modules() if isinstance(module, ResidualBlock)]
    return [f"{name}.{part}" for name in blocks for part in ("conv1", "conv2")]


def choices(network: BasicVSR) -> list[list[str]]:
    """Return the sets of convolutions that may compute on integers, from the most work to the least.

    The first set holds all others. A light tail's convolution is in none: on integers it would double the error of
    `small`, and so would the backward trunk's input convolution (lab notebook). A BasicVSR's input convolutions are a
    hundredth of its work.
    """
    blocks, flow = block_convolutions(network), flow_convolutions(network)
    if network.config.tail == "full":
        return [[*blocks, *beside] for beside in ([*UPSAMPLER, *flow], [*UPSAMPLER[:2], *flow], UPSAMPLER[:2], [])]
    return [[*blocks, *beside] for beside in ([ENTRY, *flow], flow, [ENTRY], [])]


def flow_convolutions(network: BasicVSR) -> list[str]:
    """Return the names of the flow's convolutions that are to compute on integers: all have a ReLU behind them."""
    if network.config.flow == "spynet":
        return list(SPYNET)
    bodies = [f"{name}.body" for name, module in network.named_modules() if isinstance(module, LightLevel)]
    return [f"{body}.{place}" for body in bodies for place in (0, 2)]


class Sample:
    """Pixels of a convolution's input, and the extremes of all pixels, seen or not."""

    def __init__(self) -> None:
        self._pixels: list[Tensor] = []
        self._extremes: list[Tensor] = []

    def add(self, pixels: Tensor) -> None:
        """Add an input's pixels [N, in]."""
        some = torch.randint(len(pixels), (PIXELS,), generator=torch.Generator().manual_seed(len(self._pixels)))
        self._pixels.append(pixels[some])
        self._extremes.append(torch.stack(pixels.aminmax(dim=0)))

    @property
    def pixels(self) -> Tensor:
        """[N, in]."""
        return torch.cat(self._pixels)

    @property
    def low(self) -> Tensor:
        """[in], at most 0."""
        return torch.stack(self._extremes)[:, 0].amin(0).clamp(max=0)

    @property
    def high(self) -> Tensor:
        """[in], at least 0."""
        return torch.stack(self._extremes)[:, 1].amax(0).clamp(min=0)


def calibrate(network: BasicVSR, names: Iterable[str], clips: Iterable[Frames]) -> dict[str, Quantisation]:
    """Choose scales for the convolutions `names` from LR clips [T, h, w, 3]; the network is float32 on the CPU."""
    samples = {name: Sample() for name in names}
    with _recorded(network, samples):
        for clip in clips:
            network(to_model(torch.from_numpy(clip)[None].clone(), torch.device("cpu")))
    return {name: chosen(_conv(network, name), sample) for name, sample in samples.items()}


def chosen(conv: nn.Conv2d, sample: Sample) -> Quantisation:
    """Choose the numbers of a convolution from a sample of its input."""
    weight, bias, pixels = conv.weight.detach().float(), conv.bias, sample.pixels
    assert bias is not None
    zeros = ZEROS if bool((sample.low < 0).any()) else (0,)
    candidates = [(zero, step) for zero in zeros for step in _steps(sample, pixels, zero)]
    _, zero, step, scale = min((_tried(weight, pixels, *each) for each in candidates), key=lambda found: found[0])
    exact = weight * step.view(-1, 1, 1)
    error = exact.sum((2, 3)) @ (pixels / step).mean(0)
    error -= (rounded(exact, scale) * scale.view(-1, 1, 1, 1)).sum((2, 3)) @ _integers(pixels / step, zero).mean(0)
    return Quantisation(zero, 1 / step, scale, bias.detach().float() + error)


def _steps(sample: Sample, pixels: Tensor, zero: int) -> list[Tensor]:
    """Return candidates for the steps [in] between integers, from a common one to the best one of each channel."""
    best = torch.maximum(sample.high / (LEVELS - zero), -sample.low / zero if zero else sample.high / LEVELS)
    if not zero:  # a ReLU's output
        steps = torch.stack([best.clamp(min=1e-9) * part for part in PARTS])
        best = steps.gather(0, torch.stack([_errors(pixels, step, zero) for step in steps]).argmin(0)[None])[0]
    largest = best.max().clamp(min=1e-9)
    return [largest * (best / largest).clamp(min=1 / MOST_GAIN) ** power for power in POWERS]


def _tried(weight: Tensor, sample: Tensor, zero: int, step: Tensor) -> tuple[float, int, Tensor, Tensor]:
    """Return the estimated squared error of the output, the zero point, the steps and the weight's scale."""
    scale, of_weights = _weight_scale(weight * step.view(-1, 1, 1), (sample / step).square().mean(0))
    error = float(_errors(sample, step, zero) @ weight.square().sum((0, 2, 3))) + of_weights
    return error, zero, step, scale


def _errors(sample: Tensor, step: Tensor, zero: int) -> Tensor:
    """Return the mean squared error of each channel of a sample [N, in] in steps [in]."""
    return (_integers(sample / step, zero).mul_(step) - sample).square().mean(0)


def _integers(x: Tensor, zero: int) -> Tensor:
    """Round, and clip as integers with a zero point do."""
    return x.round().clamp_(-zero, LEVELS - zero)


def _weight_scale(weight: Tensor, power: Tensor) -> tuple[Tensor, float]:
    """Choose the scale [out] of a weight [out, in, h, w] whose input has the mean square `power` [in].

    Also returns the squared error of the output.
    """
    largest = weight.abs().amax((1, 2, 3)).clamp(min=1e-9) / MOST_WEIGHT
    scales = torch.stack([largest * part for part in WEIGHT_SCALES])
    errors = [(rounded(weight, scale) * scale.view(-1, 1, 1, 1) - weight).square() for scale in scales]
    costs = torch.stack([torch.einsum("ocyx,c->o", error, power) for error in errors])
    return scales.gather(0, costs.argmin(0)[None])[0], float(costs.amin(0).sum())


@contextmanager
def _recorded(network: BasicVSR, samples: dict[str, Sample]) -> Iterator[None]:
    """Record a sample of the inputs of convolutions. With gradients enabled, all of them run as modules."""

    def record(into: Sample, _: nn.Module, given: Any) -> None:
        into.add(given[0].detach().float().permute(0, 2, 3, 1).flatten(0, 2))

    hooks = [_conv(network, name).register_forward_pre_hook(partial(record, each)) for name, each in samples.items()]
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
