"""The papers' degradations from HR to LR by a factor of four: BI and BD.

BI is MATLAB's `imresize(x, 1/scale, 'bicubic')`: Keys' cubic (a = -0.5), stretched by the factor for antialiasing,
with weights normalised per output pixel and symmetric padding. BD is BasicVSR's `BD_degradation.m`: a Gaussian of sigma
1.6 with a 12 x 12 kernel centred on each 4 x 4 block, sampled at every fourth pixel, with replicated borders.
Both are separable and linear: one weight matrix per axis, `out = R @ x @ C.T`.

Images are [..., H, W] of any type convertible to float32. Colour must not be the last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]
SCALE = 4


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
def blur_weights(length: int, sigma: float = 1.6, taps: int = 12) -> Tensor:
    """Return the weights of BD along one axis: [length // 4, length], float32; rows sum to one.

    Row i is a Gaussian centred on 4 i + 1.5, the middle of its block of four.
    """
    centre = np.arange(length // SCALE) * SCALE + (SCALE - 1) / 2
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


def bi(x: Tensor) -> Tensor:
    """Apply BI: [..., H, W] -> [..., H / 4, W / 4].

    Raises ValueError if H or W is not a multiple of 4.
    """
    h, w = _divisible(x)
    return resize(x, h // SCALE, w // SCALE)


def bd(x: Tensor, sigma: float = 1.6) -> Tensor:
    """Apply BD: [..., H, W] -> [..., H / 4, W / 4].

    Raises ValueError if H or W is not a multiple of 4.
    """
    h, w = _divisible(x)
    return _separable(x, blur_weights(h, sigma), blur_weights(w, sigma))


CLEAN: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {"bi": bi, "bd": bd}
"""Degradations without compression, by name."""


def bicubic_up(x: Tensor) -> Tensor:
    """Enlarge like MATLAB's imresize(x, 4), the bicubic baseline: [..., H, W] -> [..., 4 H, 4 W]."""
    return resize(x, x.shape[-2] * SCALE, x.shape[-1] * SCALE)


def _divisible(x: Tensor) -> tuple[int, int]:
    h, w = x.shape[-2:]
    if h % SCALE or w % SCALE:
        raise ValueError(f"{w}x{h} is not divisible by {SCALE}: crop it first")
    return h, w


def to_uint8(x: Tensor) -> Tensor:
    """Clip to 0..255 and round to uint8. Halves round up, as in MATLAB."""
    return (x.clamp(0, 255) + 0.5).floor().to(torch.uint8)
