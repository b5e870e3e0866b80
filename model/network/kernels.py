"""Convolutions together with what follows them, in one pass over memory where oneDNN can do that.

At inference on a CPU the activation after a convolution, and the addition of a residual, cost as much as a fifth of
the convolution itself. `torch.ops.mkldnn._convolution_pointwise` (what torch.compile emits for a CPU, torch 2.13) does
them while the result is in the cache. Elsewhere (GPU, training, another torch) the plain operations run: the same
numbers but for the last bit of bfloat16, since the fused ones round once instead of twice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["none", "relu", "leaky"]
SLOPE = 0.1
"""Of every leaky ReLU in BasicVSR."""
PACKED_BELOW = 16384
"""Pixels up to which weights are taken in oneDNN's own layout."""
_KEPT: WeakKeyDictionary[nn.Conv2d, dict[str, tuple[Tensor, int, Any]]] = WeakKeyDictionary()

T = TypeVar("T")


def convolve(
    conv: nn.Conv2d,
    x: Tensor,
    activation: Activation = "none",
    plus: Tensor | None = None,
    in_place: bool = False,
) -> Tensor:
    """`activation(conv(x))`, or `conv(x) + plus` (which takes no activation): [B, in, H, W] -> [B, out, H, W].

    The first channels of `x` may come `with_remainder`. `in_place`: at inference the sum may overwrite
    `plus`, which takes an eighth less time at 320x180, since there is a third less memory to pass through.
    """
    if torch.is_grad_enabled() or not _fuses(x.device, x.dtype):
        return _plainly(conv, x, activation, plus)
    weight, where = _packed(conv, x), _where(conv)
    if plus is not None and in_place:
        return _in_place().binary(plus, x, weight, conv.bias, *where, "add", None, None, [], None)  # type: ignore[no-any-return]
    if plus is not None:
        return _ops().binary(x, plus, weight, conv.bias, *where, "add", None, None, [], None)  # type: ignore[no-any-return]
    name, numbers = {"none": ("none", []), "relu": ("relu", []), "leaky": ("leaky_relu", [SLOPE])}[activation]
    return _ops()(x, weight, conv.bias, *where, name, numbers, "")  # type: ignore[no-any-return]


def convolve_shuffled(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`leaky(pixel_shuffle(conv(x), 2))`: [B, in, H, W] -> [B, out / 4, 2 H, 2 W].

    One convolution for each of the two rows of sub-pixels, its result moved pixel by pixel to where it belongs. A
    shuffle would move channel by channel, and oneDNN is slower a channel with 256 of them: together 13.1 ms against 4.3
    ms for 64 channels at 640x50.
    """
    if torch.is_grad_enabled() or not _fuses(x.device, x.dtype):
        return F.leaky_relu_(F.pixel_shuffle(conv(x), 2), SLOPE)
    b, _, h, w = x.shape
    weight, bias = _sorted(conv, 2)
    out = x.new_empty(b, h, 2, w, conv.out_channels // 2)
    for row, (rows, offsets) in enumerate(zip(weight.chunk(2), bias.chunk(2), strict=True)):
        y = _ops()(x, rows, offsets, *_where(conv), "leaky_relu", [SLOPE], "")
        out[:, :, row] = y.permute(0, 2, 3, 1)
    return out.view(b, 2 * h, 2 * w, -1).permute(0, 3, 1, 2)


def convolve_sorted(conv: nn.Conv2d, x: Tensor, scale: int) -> Tensor:
    """`conv(x)` with its sub-pixels by row, column and channel, where a pixel shuffle has channel, row, column."""
    weight, bias = _sorted(conv, scale)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


def convolve_all(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Convolutions with a ReLU after each but the last."""
    for index in range(0, len(layers), 2):
        conv = layers[index]
        assert isinstance(conv, nn.Conv2d)
        x = convolve(conv, x, "relu" if index + 1 < len(layers) else "none")
    return x


def with_remainder(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels [B, C, H, W] in `dtype`, each channel followed by what rounding takes from it: [B, 2 C, H, W].

    bfloat16 has steps of one level of 255 above half of the range, and pixels lie between them: they are rounded by up
    to half a level. A convolution that gets both (`convolve`) sees them as in float32. That costs next to nothing,
    since oneDNN fills channels up to sixteens.
    """
    rows = x.permute(0, 2, 3, 1)
    rounded = rows.to(dtype)
    both = torch.stack([rounded, (rows - rounded).to(dtype)], dim=-1)
    return both.flatten(-2).permute(0, 3, 1, 2)


def _weight(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The weight of `conv` for what `x` has: where it has more channels, the first come with their remainders."""
    more = x.shape[1] - conv.in_channels
    if not more:
        return conv.weight

    def repeated() -> Tensor:
        pixels = conv.weight[:, :more].repeat_interleave(2, 1)
        return torch.cat([pixels, conv.weight[:, more:]], 1).contiguous(memory_format=torch.channels_last)

    return _kept(conv, f"{more} remainders", repeated)


def _packed(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The same weight, for a small `x` laid out as oneDNN wants it, which it would otherwise do in each call.

    That is a quarter of the time of a trunk on 24x24 pixels, a tenth on 96x96, and nothing on whole frames, for which
    the plain layout is as fast.
    """
    if x.shape[-2] * x.shape[-1] > PACKED_BELOW:
        return _weight(conv, x)
    channels = x.shape[1]
    reorder: Callable[..., Tensor] = torch.ops.mkldnn._reorder_convolution_weight
    return _kept(conv, f"packed {channels}", lambda: reorder(_weight(conv, x), *_where(conv), [1, channels, 24, 24]))


def _sorted(conv: nn.Conv2d, scale: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that feeds a pixel shuffle, output channels by row, column and channel."""
    bias = conv.bias
    assert bias is not None

    def by_row() -> tuple[Tensor, Tensor]:
        order = torch.arange(conv.out_channels).view(-1, scale * scale).T.flatten()
        return conv.weight[order].contiguous(memory_format=torch.channels_last), bias[order]

    return _kept(conv, "sorted", by_row)


def _kept(conv: nn.Conv2d, kind: str, made: Callable[[], T]) -> T:
    """What is made of a convolution's weights, made again when they change.

    The weight that it was made of is kept with it: so no other can come to lie where that one lay. And it is kept
    beside the convolution, not in it: what oneDNN lays out cannot be copied or saved with a network.
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
    if plus is not None:
        return plus + y
    if activation == "relu":
        return F.relu_(y)
    return F.leaky_relu_(y, SLOPE) if activation == "leaky" else y


def _ops() -> Any:
    return torch.ops.mkldnn._convolution_pointwise


def _in_place() -> Any:
    return torch.ops.mkldnn._convolution_pointwise_


@cache
def _fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused operation is there, and gives what the plain ones do, on this machine."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with torch.inference_mode(False):  # as a network's: an inference tensor has no version
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
