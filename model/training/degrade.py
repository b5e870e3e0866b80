"""The papers' degradations from HR to LR by a scale: BI and BD.

BI is MATLAB's `imresize(x, 1/scale, 'bicubic')`: Keys' cubic (a = -0.5), stretched by the scale for antialiasing,
with weights normalised per output pixel and symmetric padding. BD at scale 4 is BasicVSR's `BD_degradation.m`: a
Gaussian of sigma 1.6 with a 12 x 12 kernel centred on each 4 x 4 block, sampled at every fourth pixel, with replicated
borders. At another scale the blur is the same in LR pixels.
Both are separable and linear: one weight matrix per axis, `out = R @ x @ C.T`.

Images are [..., H, W] of any type convertible to float32. Colour must not be the last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]
Frames = npt.NDArray[np.uint8]
SCALE: Final = 4
"""The papers' scale."""


class Degradation(Protocol):
    """A degradation without compression: images [..., H, W] -> [..., H / scale, W / scale]."""

    def __call__(self, x: Tensor, scale: int = SCALE) -> Tensor: ...


def _cubic(x: FloatArray) -> FloatArray:
    """Evaluate Keys' cubic convolution kernel, a = -0.5 (MATLAB's `cubic`)."""
    ax = np.abs(x)
    near = 1.5 * ax**3 - 2.5 * ax**2 + 1
    far = -0.5 * ax**3 + 2.5 * ax**2 - 4 * ax + 2
    return np.where(ax <= 1, near, np.where(ax <= 2, far, 0.0))


def _mirror(index: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Map indices by symmetric padding: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ..."""
    index = np.mod(index, 2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)


@lru_cache(maxsize=8)  # a photograph's matrix takes tens of MB
def bicubic_weights(length: int, out_length: int) -> Tensor:
    """Return the weights of MATLAB's imresize along one axis: [out_length, length], float32; rows sum to one.

    Shrinking is antialiased, as in MATLAB. Enlarging is plain bicubic interpolation.
    """
    scale = out_length / length
    stretch = min(scale, 1.0)
    support = 4.0 / stretch
    centre = (np.arange(out_length) + 0.5) / scale - 0.5
    first = np.floor(centre - support / 2).astype(np.int64)
    taps = first[:, None] + np.arange(int(np.ceil(support)) + 2)
    weights = _cubic((centre[:, None] - taps) * stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    return _matrix(weights, _mirror(taps, length), length)


@lru_cache(maxsize=8)  # a photograph's matrix takes tens of MB
def blur_weights(length: int, sigma: float = 1.6, scale: int = SCALE) -> Tensor:
    """Return the weights of BD along one axis: [length // scale, length], float32; rows sum to one.

    Row i is a Gaussian centred on the middle of its block of `scale` pixels, at scale 4 on 4 i + 1.5. `sigma` is that
    of scale 4.
    """
    centre = np.arange(length // scale) * scale + (scale - 1) / 2
    sigma, taps = sigma * scale / SCALE, 3 * scale
    offsets = np.arange(taps) - (taps - 1) / 2
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    index = np.round(centre[:, None] + offsets).astype(np.int64)
    return _matrix(np.broadcast_to(kernel / kernel.sum(), index.shape), index.clip(0, length - 1), length)


def _matrix(weights: FloatArray, taps: npt.NDArray[np.int64], length: int) -> Tensor:
    matrix = np.zeros((len(weights), length))
    rows = np.broadcast_to(np.arange(len(weights))[:, None], taps.shape)
    np.add.at(matrix, (rows, taps), weights)
    return torch.from_numpy(matrix).float()


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return rows.to(x.device) @ x.float() @ columns.to(x.device).T


def resize(x: Tensor, h: int, w: int) -> Tensor:
    """Resize to [..., h, w] like MATLAB's imresize: bicubic, antialiased. The result is neither clipped nor rounded."""
    return _separable(x, bicubic_weights(x.shape[-2], h), bicubic_weights(x.shape[-1], w))


def bi(x: Tensor, scale: int = SCALE) -> Tensor:
    """Apply BI: [..., H, W] -> [..., H / scale, W / scale].

    Raises ValueError if H or W is not a multiple of the scale.
    """
    h, w = _divisible(x, scale)
    return resize(x, h // scale, w // scale)


def bd(x: Tensor, scale: int = SCALE, sigma: float = 1.6) -> Tensor:
    """Apply BD: [..., H, W] -> [..., H / scale, W / scale]; `sigma` is that of scale 4.

    Raises ValueError if H or W is not a multiple of the scale.
    """
    h, w = _divisible(x, scale)
    return _separable(x, blur_weights(h, sigma, scale), blur_weights(w, sigma, scale))


CLEAN: Final[Mapping[str, Degradation]] = {"bi": bi, "bd": bd}
"""Degradations without compression, by name."""


def bicubic_up(x: Tensor, scale: int = SCALE) -> Tensor:
    """Enlarge like MATLAB's imresize(x, scale), the bicubic baseline: [..., H, W] -> [..., scale H, scale W]."""
    return resize(x, x.shape[-2] * scale, x.shape[-1] * scale)


def _divisible(x: Tensor, scale: int) -> tuple[int, int]:
    h, w = x.shape[-2:]
    if h % scale or w % scale:
        raise ValueError(f"{w}x{h} is not divisible by {scale}: crop it first")
    return h, w


def to_uint8(x: Tensor) -> Tensor:
    """Clip to 0..255 and round to uint8. Halves round up, as in MATLAB."""
    return (x.clamp(0, 255) + 0.5).floor().to(torch.uint8)


def planar(frame: Frames) -> Tensor:
    """Convert [..., H, W, 3] uint8 to [..., 3, H, W] float, 0..255."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(frame, -1, -3))).float()


def interleaved(x: Tensor) -> Frames:
    """Convert [..., 3, H, W] float, 0..255, to [..., H, W, 3] uint8, rounded."""
    return to_uint8(x).movedim(-3, -1).contiguous().numpy()


def each_on_device(frames: Tensor, how: Callable[[Tensor], Tensor]) -> Tensor:
    """Degrade frame by frame on the device of the frames: [T, H, W, 3] -> [T, h, w, 3], uint8, rounded."""
    return torch.stack([to_uint8(how(frame.movedim(-1, -3).contiguous().float())).movedim(-3, -1) for frame in frames])


def each(frames: Frames, how: Callable[[Tensor], Tensor]) -> Frames:
    """Degrade frame by frame: [T, H, W, 3] -> [T, h, w, 3], uint8, rounded."""
    return each_on_device(torch.from_numpy(np.array(frames)), how).contiguous().numpy()
