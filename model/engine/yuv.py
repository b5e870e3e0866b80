"""RGB frames to YUV 4:2:0 on the device of the network: half the bytes to the host, and no conversion there.

The filters are the filters of swscale's bicubic scaler. swscale converts the frames of a CPU (`media.color.yuv`): the
samples differ by one code value at most. Horizontally swscale averages two pixels, and then interpolates if the chroma
samples lie on a column of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

_SHARPNESS: Final = -0.6
"""swscale's parameter of the bicubic filter."""
_WHITE: Final = {torch.uint8: 255.0, torch.uint16: 255.0 * 256}
"""Level of white as swscale reads and writes it."""
_REACH: Final = 4
"""Rows, and pairs of columns, that the filter reads on each side."""


@dataclass(frozen=True)
class YuvFormat:
    """A format of 4:2:0 samples. A frame consists of its planes, in order and without padding: [3 H W / 2]."""

    red: float
    """Weight of red in luma (H.273's KR)."""
    blue: float
    """Weight of blue in luma (KB)."""
    full: bool
    """Whether samples use the full range."""
    bits: int
    """Bits of a sample; more than 8 bits lie in 16-bit words."""
    interleaved: bool = False
    """Whether both colour differences share one plane, sample by sample (nv12, p010)."""
    shift: int = 0
    """Bits below the lowest bit of a sample in its word."""
    row: float = 0.5
    """Vertical place of a chroma sample: 0 on the upper row of its two rows of pixels, 1 on the lower row."""
    on_column: bool = False
    """Whether chroma samples lie on the left column of their two columns, not between them."""


def to_yuv(frames: Tensor, made: YuvFormat) -> Tensor:
    """Convert RGB frames [T, H, W, 3], uint8 or uint16 of even sides, to samples [T, 3 H W / 2] of a format."""
    count, h, w, _ = frames.shape
    dtype = torch.uint8 if made.bits == 8 else torch.uint16
    out = torch.empty(count, h * w * 3 // 2, dtype=dtype, device=frames.device)
    matrix, offsets = _matrix(made, _WHITE[frames.dtype], frames.device)
    for rgb, samples in zip(frames, out, strict=True):  # one by one: a frame takes 24 bytes for each pixel
        planes = F.conv2d(rgb.permute(2, 0, 1)[None].float(), matrix, offsets)
        chroma = _halved(planes[:, 1:], made)[0]
        if made.interleaved:
            chroma = chroma.permute(1, 2, 0)
        for part, values in ((samples[: h * w], planes[0, 0]), (samples[h * w :], chroma)):
            part.copy_(_samples(values, made).to(dtype).reshape(-1))
    return out


def _samples(values: Tensor, made: YuvFormat) -> Tensor:
    """Round values to samples, int32."""
    return values.round().clamp_(0, 2**made.bits - 1).mul_(1 << made.shift).to(torch.int32)


def _halved(chroma: Tensor, made: YuvFormat) -> Tensor:
    """Reduce both colour differences [1, 2, H, W] to [1, 2, H / 2, W / 2]."""
    pairs = F.pad(F.avg_pool2d(chroma, (1, 2)), (_REACH, _REACH, _REACH, _REACH), mode="replicate")
    return F.conv2d(pairs, _filter(made.row, made.on_column, chroma.device), stride=(2, 1), groups=2)


@lru_cache(maxsize=16)
def _matrix(made: YuvFormat, white: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return weight [3, 3, 1, 1] and offset [3] of the conversion from RGB levels up to `white` to code values."""
    green = 1 - made.red - made.blue
    luma = torch.tensor([made.red, green, made.blue], dtype=torch.float64)
    red, blue = torch.tensor([1.0, 0, 0], dtype=torch.float64), torch.tensor([0, 0, 1.0], dtype=torch.float64)
    rows = torch.stack([luma, (blue - luma) / (2 - 2 * made.blue), (red - luma) / (2 - 2 * made.red)])
    unit = 1 << (made.bits - 8)
    most = (1 << made.bits) - 1
    spans = (most, most) if made.full else (219 * unit, 224 * unit)
    weight = rows * torch.tensor([spans[0], spans[1], spans[1]], dtype=torch.float64)[:, None] / white
    offset = torch.tensor([0 if made.full else 16 * unit, 128 * unit, 128 * unit])
    return weight.float().view(3, 3, 1, 1).to(device), offset.float().to(device)


@lru_cache(maxsize=16)
def _filter(row: float, on_column: bool, device: torch.device) -> Tensor:
    """Return the weight [2, 1, rows, pairs of columns] that reduces a plane with a border of `_REACH`."""
    down = _bicubic((torch.arange(-_REACH, _REACH + 2, dtype=torch.float64) - row) / 2)
    across = _bicubic(torch.arange(-_REACH, _REACH + 1, dtype=torch.float64) + 0.25 * on_column)
    weight = torch.outer(down / down.sum(), across / across.sum())
    return weight.float().expand(2, 1, -1, -1).contiguous().to(device)


def _bicubic(x: Tensor) -> Tensor:
    """Return the weights of Keys' filter at distances `x`."""
    x, a = x.abs(), _SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
