"""Convolutions fused with their activation or residual addition, where oneDNN supports that.

At inference on a CPU, an activation or an addition after a convolution costs up to a fifth of the convolution. The
operator `torch.ops.mkldnn._convolution_pointwise`, which torch.compile emits for CPUs (torch 2.13), works on the result
while the cache still holds it. On GPUs, in training and with other versions of torch the plain operations run. Results
differ in the last bit of bfloat16 only: fused operations round once instead of twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.quantised import chain_on_integers, convolved_on_integers

Activation = Literal["none", "relu", "leaky"]
SLOPE = 0.1
"""Negative slope of every leaky ReLU in BasicVSR."""
PACKED_BELOW = 16384
"""Inputs of up to this many pixels use weights in oneDNN's own layout."""
_KEPT: WeakKeyDictionary[nn.Conv2d, dict[str, tuple[Tensor, int, Any]]] = WeakKeyDictionary()

T = TypeVar("T")


def convolve(
    conv: nn.Conv2d,
    x: Tensor,
    activation: Activation = "none",
    plus: Tensor | None = None,
    in_place: bool = False,
) -> Tensor:
    """Compute `activation(conv(x))`, or `conv(x) + plus` without activation: [B, in, H, W] -> [B, out, H, W].

    The first channels of `x` may come `with_remainder`. With `in_place`, inference may write the sum into `plus`: an
    eighth less time at 320x180, as a third less memory moves.
    """
    on_integers = convolved_on_integers(conv, x) if plus is None else None
    if on_integers is not None:
        return _activated(on_integers[0], activation)
    if torch.is_grad_enabled() or not _fuses(x.device, x.dtype):
        return _plainly(conv, x, activation, plus)
    if plus is None:
        return _fused(conv, x, activation)
    weight, where = _packed(conv, x), _where(conv)
    if in_place:
        return _in_place().binary(plus, x, weight, conv.bias, *where, "add", None, None, [], None)  # type: ignore[no-any-return]
    return _ops().binary(x, plus, weight, conv.bias, *where, "add", None, None, [], None)  # type: ignore[no-any-return]


def _fused(conv: nn.Conv2d, x: Tensor, activation: Activation) -> Tensor:
    """Compute `activation(conv(x))` with the fused operation.

    A vector of the processor holds sixteen output channels, and a convolution with fewer takes as long. Such a
    convolution computes several pixels of a row at once, as the channels of a wider kernel with a stride: half the time
    for three channels, a third for two.
    """
    b, _, h, w = x.shape
    beside = _pixels_at_once(conv, w)
    weight, bias = (_packed(conv, x), conv.bias) if beside == 1 else _side_by_side(conv, x, beside)
    where: tuple[Any, ...] = _where(conv) if beside == 1 else (conv.padding, (1, beside), (1, 1), 1)
    name, numbers = {"none": ("none", []), "relu": ("relu", []), "leaky": ("leaky_relu", [SLOPE])}[activation]
    y = _ops()(x, weight, bias, *where, name, numbers, "")
    if beside > 1:
        y = y.permute(0, 2, 3, 1).reshape(b, h, w, conv.out_channels).permute(0, 3, 1, 2)
    return y  # type: ignore[no-any-return]


def _pixels_at_once(conv: nn.Conv2d, width: int) -> int:
    """Return how many pixels of a row `_fused` computes at once: a power of two that divides the width."""
    sides = conv.kernel_size
    keeps_size = all(side % 2 for side in sides) and conv.padding == tuple(side // 2 for side in sides)
    if not keeps_size or (conv.stride, conv.dilation, conv.groups) != ((1, 1), (1, 1), 1):
        return 1
    most = _lanes() // conv.out_channels
    return math.gcd(width, 1 << (most.bit_length() - 1)) if most else 1


def _side_by_side(conv: nn.Conv2d, x: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias that compute `count` pixels of a row, output channels by pixel and channel."""
    more = x.shape[1] - conv.in_channels

    def shifted() -> Tensor:
        weight = _weight(conv, x)
        each = [F.pad(weight, (index, count - 1 - index)) for index in range(count)]
        return torch.cat(each).contiguous(memory_format=torch.channels_last)

    weight = _kept(conv, f"{count} pixels, {more} remainders", shifted)
    return weight, None if conv.bias is None else conv.bias.repeat(count)


@cache
def _lanes() -> int:
    """Return how many float32 numbers a vector of the CPU holds; 1 if unknown."""
    return {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 1)


def convolve_shuffled(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Compute `leaky(pixel_shuffle(conv(x), 2))`: [B, in, H, W] -> [B, out / 4, 2 H, 2 W].

    One convolution runs for each of the two rows of sub-pixels, and its result moves pixel by pixel into the output. A
    pixel shuffle moves channel by channel, and oneDNN is slower with 256 output channels: 13.1 ms against 4.3 ms for 64
    channels at 640x50.
    """
    on_integers = convolved_on_integers(conv, x, 2)
    if on_integers is None and (torch.is_grad_enabled() or not _fuses(x.device, x.dtype)):
        return F.leaky_relu_(F.pixel_shuffle(conv(x), 2), SLOPE)
    b, _, h, w = x.shape
    out = x.new_empty(b, h, 2, w, conv.out_channels // 2)
    for row, y in enumerate(_rows(conv, x) if on_integers is None else on_integers):
        out[:, :, row] = y.permute(0, 2, 3, 1)
    if on_integers is not None:
        F.leaky_relu_(out, SLOPE)
    return out.view(b, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)


def _rows(conv: nn.Conv2d, x: Tensor) -> Iterator[Tensor]:
    """Yield both rows of sub-pixels of `convolve_shuffled`."""
    weight, bias = _sorted(conv, 2)
    for rows, offsets in zip(weight.chunk(2), bias.chunk(2), strict=True):
        yield _ops()(x, rows, offsets, *_where(conv), "leaky_relu", [SLOPE], "")


def convolve_sorted(conv: nn.Conv2d, x: Tensor, scale: int) -> Tensor:
    """Compute `conv(x)` with sub-pixels ordered by row, column, channel; a pixel shuffle has channel, row, column."""
    weight, bias = _sorted(conv, scale)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


def convolve_all(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Run convolutions with a ReLU after each except the last."""
    on_integers, dtype = chain_on_integers(layers), x.dtype
    for index in range(0, len(layers), 2):
        quantised = on_integers.get(index)
        if quantised is not None:
            x = x if x.dtype == torch.uint8 else quantised.integers(x)
            after = on_integers.get(index + 2)
            x = quantised.floats(x, dtype, "relu") if after is None else quantised.into(x, after.zero)
            continue
        conv = layers[index]
        assert isinstance(conv, nn.Conv2d)
        x = convolve(conv, x, "relu" if index + 1 < len(layers) else "none")
    return x


def with_remainder(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return pixels [B, C, H, W] in `dtype`, each channel followed by its rounding remainder: [B, 2 C, H, W].

    Above half of the range bfloat16 has steps of one level of 255, so rounding costs up to half a level. From both
    parts, a convolution (`convolve`) computes as from float32. The cost is small: oneDNN pads channels to multiples of
    sixteen anyway.
    """
    rows = x.permute(0, 2, 3, 1)
    rounded = rows.to(dtype)
    both = rounded.new_empty(*rows.shape, 2)
    both[..., 0], both[..., 1] = rounded, rows - rounded.float()
    return both.flatten(-2).permute(0, 3, 1, 2)


def by_row(channels: int, scale: int) -> Tensor:
    """Return the order of output channels before a pixel shuffle that puts sub-pixels by row, column and channel."""
    return torch.arange(channels).view(-1, scale * scale).T.flatten()


def _weight(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the weight of `conv` for `x`; extra channels of `x` are the remainders of its first channels."""
    more = x.shape[1] - conv.in_channels
    if not more:
        return conv.weight

    def repeated() -> Tensor:
        pixels = conv.weight[:, :more].repeat_interleave(2, 1)
        return torch.cat([pixels, conv.weight[:, more:]], 1).contiguous(memory_format=torch.channels_last)

    return _kept(conv, f"{more} remainders", repeated)


def _packed(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the weight of `conv` for `x`, for small inputs in oneDNN's own layout.

    oneDNN otherwise reorders the weight in each call: a quarter of the time of a trunk on 24x24 pixels, a tenth on
    96x96. On whole frames the plain layout is as fast.
    """
    if x.shape[-2] * x.shape[-1] > PACKED_BELOW:
        return _weight(conv, x)
    channels = x.shape[1]
    reorder: Callable[..., Tensor] = torch.ops.mkldnn._reorder_convolution_weight
    return _kept(conv, f"packed {channels}", lambda: reorder(_weight(conv, x), *_where(conv), [1, channels, 24, 24]))


def _sorted(conv: nn.Conv2d, scale: int) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution before a pixel shuffle, output channels by row, column and channel."""
    bias = conv.bias
    assert bias is not None

    def in_order() -> tuple[Tensor, Tensor]:
        order = by_row(conv.out_channels, scale)
        return conv.weight[order].contiguous(memory_format=torch.channels_last), bias[order]

    return _kept(conv, "sorted", in_order)


def _kept(conv: nn.Conv2d, kind: str, made: Callable[[], T]) -> T:
    """Return the cached result of `made`, computed from a convolution's weights; recompute after they change.

    The cache also holds the source weight, so that no other tensor can take its address. The cache lies outside the
    convolution: tensors in oneDNN's layout cannot be copied or saved with a network.
    """
    kinds = _KEPT.setdefault(conv, {})
    weight, found = conv.weight, kinds.get(kind)
    if found is not None:
        source, version, value = found
        if source.data_ptr() == weight.data_ptr() and version == weight._version:
            return value  # type: ignore[no-any-return]
    value = made()
    kinds[kind] = weight.detach(), weight._version, value
    return value


def _where(conv: nn.Conv2d) -> tuple[Any, ...]:
    return conv.padding, conv.stride, conv.dilation, conv.groups


def _plainly(conv: nn.Conv2d, x: Tensor, activation: Activation, plus: Tensor | None) -> Tensor:
    if x.shape[1] == conv.in_channels:
        y: Tensor = conv(x)
    else:
        y = F.conv2d(x, _weight(conv, x), conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    return _activated(y, activation) if plus is None else plus + y


def _activated(y: Tensor, activation: Activation) -> Tensor:
    """Apply an activation in place."""
    if activation == "relu":
        return F.relu_(y)
    return F.leaky_relu_(y, SLOPE) if activation == "leaky" else y


def _ops() -> Any:
    return torch.ops.mkldnn._convolution_pointwise


def _in_place() -> Any:
    return torch.ops.mkldnn._convolution_pointwise_


@cache
def _fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Check that the fused operations exist on this machine and compute the same as the plain ones."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with torch.inference_mode(False):  # parameters of networks have a version, inference tensors have none
        conv = nn.Conv2d(8, 8, 3, 1, 1).requires_grad_(False).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.linspace(-1, 1, 8 * 9 * 7).view(1, 8, 9, 7).to(dtype).contiguous(memory_format=torch.channels_last)
    where = _where(conv)
    try:
        weight = _packed(conv, x)
        fused = _ops().binary(x, x, weight, conv.bias, *where, "add", None, None, [], None)
        onto = x.clone(memory_format=torch.channels_last)
        _in_place().binary(onto, x, weight, conv.bias, *where, "add", None, None, [], None)
        leaky = _ops()(x, weight, conv.bias, *where, "leaky_relu", [SLOPE], "")
    except (AttributeError, RuntimeError):
        return False
    return bool(
        torch.allclose(fused.float(), _plainly(conv, x, "none", x).float(), atol=0.02)
        and torch.equal(onto, fused)
        and torch.allclose(leaky.float(), _plainly(conv, x, "leaky", None).float(), atol=0.02)
    )
