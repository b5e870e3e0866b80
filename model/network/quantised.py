"""Residual blocks and convolutions on 8-bit integers, for inference on CPUs with VNNI.

Activations are unsigned: `integer = round(gain * value) + zero`, with a zero point for the input of each convolution,
and a gain for each of its channels, for which the weights make up. Few channels have large values; with one gain for
all channels, the others would use few integers. Weights are signed, with a scale for each output channel. Products add
up exactly in 32 bits: results do not depend on the number of threads or the size of a crop. oneDNN pads with the zero
point, which stands for zero.

A block keeps its features in the network's number format, and only its residual passes through integers: rounding
errors do not add up from block to block. Quantising the features takes a seventh of a convolution's time.

Integers belong to a module of one network on one machine. Copies of a network compute without integers, as does
training.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

LEVELS: Final = 255
"""Largest integer of an activation."""
MOST_WEIGHT: Final = 127
"""Largest magnitude of a weight's integer."""
SLICE: Final = 2**18
"""Numbers that are converted at once: their float32 copy stays in the cache."""
_SHAPE: Final = (24, 24)
"""Rows and columns for which oneDNN lays out weights. The layout is the same for every size (torch 2.13)."""


@dataclass(frozen=True)
class Quantisation:
    """What turns a convolution into one on integers."""

    zero: int
    """Integer for zero in the input, 0 to 255."""
    gain: Tensor
    """[in] float32: integers for 1 in the channels of the input."""
    weight_scale: Tensor
    """[out] float32, of the weight over the gain."""
    bias: Tensor
    """[out] float32: the bias of the convolution, corrected for the mean error of its rounded weights and input."""


class QuantisedConv:
    """A convolution on the integers of its input."""

    def __init__(self, conv: nn.Conv2d, numbers: Quantisation, following: Tensor | None = None) -> None:
        """Quantise a float32 convolution; its output gets the gain `following` [out]."""
        self.zero, self.gain = numbers.zero, numbers.gain
        more = 1.0 if following is None else following
        self._bias, self._scale = numbers.bias * more, numbers.weight_scale * more
        self._zeros = torch.zeros(len(numbers.weight_scale), dtype=torch.int32)
        self._where = [list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups]
        weight = conv.weight.detach() / numbers.gain.view(-1, 1, 1)
        integers = rounded(weight, numbers.weight_scale).to(torch.int8)
        shape = [1, conv.in_channels, *_SHAPE]
        self._weight = torch.ops.onednn.qconv_prepack(integers, self._scale, 1.0, self.zero, *self._where, shape)

    def integers(self, x: Tensor) -> Tensor:
        """Quantise an input [B, C, H, W]."""
        return integers(x, self.zero, self.gain)

    def into(self, x: Tensor, zero: int) -> Tensor:
        """Compute the ReLU of the convolution of integers `x`, as integers with the zero point of the next input."""
        return self._run(x, zero, torch.uint8, "relu")

    def floats(self, x: Tensor, dtype: torch.dtype, activation: str = "none") -> Tensor:
        """Compute the convolution of integers `x`, or its `relu`, in the number format `dtype`."""
        return self._run(x, 0, dtype, activation)

    def onto(self, x: Tensor, sum_: Tensor) -> Tensor:
        """Add the convolution of integers `x` to `sum_`, in place."""
        run = torch.ops.onednn.qconv2d_pointwise.binary
        more: tuple[Any, ...] = (1.0, 0, sum_.dtype, 1.0, 0, "sum", 1.0, "none", [], "")
        return run(x, *self._inputs(), sum_, self._bias, *self._where, *more)  # type: ignore[no-any-return]

    def _run(self, x: Tensor, zero: int, dtype: torch.dtype, activation: str) -> Tensor:
        run = torch.ops.onednn.qconv2d_pointwise
        more: tuple[Any, ...] = (1.0, zero, dtype, activation, [], "")
        return run(x, *self._inputs(), self._bias, *self._where, *more)  # type: ignore[no-any-return]

    def _inputs(self) -> tuple[Any, ...]:
        return 1.0, self.zero, self._weight, self._scale, self._zeros


class QuantisedBlock:
    """A residual block, whose residual is computed on integers."""

    def __init__(self, conv1: QuantisedConv, conv2: QuantisedConv) -> None:
        self._conv1, self._conv2 = conv1, conv2

    def __call__(self, x: Tensor, overwrite: bool) -> Tensor:
        """Map [B, C, H, W] to [B, C, H, W], in `x` itself if `overwrite`."""
        hidden = self._conv1.into(self._conv1.integers(x), self._conv2.zero)
        sum_ = x.contiguous(memory_format=torch.channels_last)
        if not overwrite and sum_.data_ptr() == x.data_ptr():
            sum_ = sum_.clone(memory_format=torch.channels_last)
        return self._conv2.onto(hidden, sum_)


_BLOCKS: WeakKeyDictionary[nn.Module, QuantisedBlock] = WeakKeyDictionary()
_CONVOLUTIONS: WeakKeyDictionary[nn.Module, Sequence[QuantisedConv]] = WeakKeyDictionary()
_CHAINS: WeakKeyDictionary[nn.Module, Mapping[int, QuantisedConv]] = WeakKeyDictionary()


def integers(x: Tensor, zero: int, gain: Tensor) -> Tensor:
    """Quantise [B, C, H, W] with a gain [C]: uint8 of the same shape, channels last in memory."""
    b, c, h, w = x.shape
    made = _empty_quantised((b, h, w, c), zero)
    pixels, rows = x.permute(0, 2, 3, 1).contiguous().view(-1, c), max(SLICE // c, 1)
    for target, part in zip(made.view(-1, c).split(rows), pixels.split(rows), strict=True):  # type: ignore[no-untyped-call]
        target.copy_(part * gain if part.dtype == torch.float32 else part.float().mul_(gain))
    return _seen(made)


def stacked_on_integers(conv: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor | None:
    """Concatenate the channels of parts [B, ., H, W] as the integers that `conv` reads: uint8, channels last in memory.

    The first part may come `with_remainder` (`model.network.kernels`). None if the convolution has no integers, and in
    training.
    """
    found = () if torch.is_grad_enabled() else _CONVOLUTIONS.get(conv, ())
    if len(found) != 1:
        return None
    zero, gain = found[0].zero, found[0].gain
    b, _, h, w = parts[0].shape
    made = _empty_quantised((b, h, w, len(gain)), zero)
    flat = [part.permute(0, 2, 3, 1).flatten(0, 2) for part in parts]
    if sum(part.shape[1] for part in parts) > len(gain):
        flat[0] = flat[0][:, ::2].float() + flat[0][:, 1::2]
    sides, rows = [part.shape[1] for part in flat], max(SLICE // len(gain), 1)
    for at, target in enumerate(made.view(-1, len(gain)).split(rows)):  # type: ignore[no-untyped-call]
        floats = torch.empty(target.shape)
        for part, own, out in zip(flat, gain.split(sides), floats.split(sides, 1), strict=True):  # type: ignore[no-untyped-call]
            torch.mul(part[at * rows : (at + 1) * rows], own, out=out)
        target.copy_(floats)
    return _seen(made)


def rounded(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the integers, as floats, of a weight [out, in, h, w] with a scale [out]."""
    return (weight / scale.view(-1, 1, 1, 1)).round_().clamp_(-MOST_WEIGHT, MOST_WEIGHT)


def quantise_block(block: nn.Module, conv1: QuantisedConv, conv2: QuantisedConv) -> None:
    """Let inference compute a residual block on integers."""
    _BLOCKS[block] = QuantisedBlock(conv1, conv2)


def quantise_convolution(conv: nn.Conv2d, parts: Sequence[QuantisedConv]) -> None:
    """Let inference compute a convolution on integers, in `parts` of its output channels."""
    _CONVOLUTIONS[conv] = parts


def quantise_chain(layers: nn.Module, convolutions: Mapping[int, QuantisedConv]) -> None:
    """Let inference compute some convolutions of `layers` on integers, by their places in `layers`.

    A ReLU follows each convolution. Outputs that the next convolution reads as integers have the gain of that input.
    """
    _CHAINS[layers] = convolutions


def chain_on_integers(layers: nn.Module) -> Mapping[int, QuantisedConv]:
    """Return the convolutions of a chain that compute on integers, by their places in `layers`; none in training."""
    return {} if torch.is_grad_enabled() else _CHAINS.get(layers, {})


def block_on_integers(block: nn.Module) -> QuantisedBlock | None:
    """Return the integers' version of a residual block, if any; none in training."""
    return None if torch.is_grad_enabled() else _BLOCKS.get(block)


def convolved_on_integers(conv: nn.Conv2d, x: Tensor, parts: int = 1) -> list[Tensor] | None:
    """Compute a convolution of [B, C, H, W] on integers, in `parts` of its output channels.

    None if the convolution has no integers in so many parts, and in training.
    """
    made = () if torch.is_grad_enabled() else _CONVOLUTIONS.get(conv, ())
    if len(made) != parts:
        return None
    if x.dtype == torch.uint8:  # from `stacked_on_integers`
        return [part.floats(x, conv.weight.dtype) for part in made]
    seen = made[0].integers(x)
    return [part.floats(seen, x.dtype) for part in made]


def has_integers(network: nn.Module) -> bool:
    """Check whether inference computes any convolution of a network on integers."""
    return any(module in kind for module in network.modules() for kind in (_BLOCKS, _CONVOLUTIONS, _CHAINS))


@cache
def exact() -> bool:
    """Check that this torch has the operations, and that this CPU adds up products of integers without saturation.

    CPUs without VNNI add pairs of products in 16 bits, which saturates.
    """
    conv = nn.Conv2d(8, 8, 3, 1, 1).requires_grad_(False)
    conv.weight.fill_(MOST_WEIGHT)
    numbers = Quantisation(0, torch.ones(8), torch.ones(8), torch.zeros(8))
    x = torch.full((1, 8, 3, 3), float(LEVELS)).contiguous(memory_format=torch.channels_last)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # torch will drop its quantised tensors one day: this check then fails
            made = QuantisedConv(conv, numbers)
            seen = made.integers(x)
            y = made.floats(seen, torch.float32)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(torch.equal(seen.float(), x) and y[0, 0, 1, 1] == 72 * LEVELS * MOST_WEIGHT)


def _seen(made: Tensor) -> Tensor:
    """Return quantised numbers [B, H, W, C] as plain integers [B, C, H, W]."""
    seen = torch.empty(0, dtype=torch.uint8).set_(made.untyped_storage(), 0, made.shape, made.stride())
    return seen.permute(0, 3, 1, 2)


def _empty_quantised(shape: tuple[int, ...], zero: int) -> Tensor:
    return torch._empty_affine_quantized(shape, scale=1.0, zero_point=zero, dtype=torch.quint8)
