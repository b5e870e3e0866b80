"""Folding: f x f pixels become the channels of one feature pixel, so that a network for x2 works at half the size.

The order of channels is that of `torch.nn.functional.pixel_unshuffle`: colour, row, column. A frame whose sides are no
multiples of f is first extended by its last row and column. With f = 1 nothing changes.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE: Final = 4
"""Side of a feature pixel in HR pixels, unless a checkpoint says otherwise."""


def fold(x: Tensor, f: int) -> Tensor:
    """Fold images [..., C, H, W] into feature pixels [..., C f f, ceil(H / f), ceil(W / f)]."""
    if f == 1:
        return x
    return F.pixel_unshuffle(_extended(x, -2, -1, f), f)


def unfold(x: Tensor, f: int) -> Tensor:
    """Unfold feature pixels [..., C f f, H, W] into images [..., C, f H, f W]."""
    return x if f == 1 else F.pixel_shuffle(x, f)


def fold_frames(frames: Tensor, f: int) -> Tensor:
    """Fold frames [..., H, W, 3] of any number format into feature pixels [..., ceil(H / f), ceil(W / f), 3 f f]."""
    if f == 1:
        return frames
    whole = _extended(frames, -3, -2, f)
    *lead, h, w, c = whole.shape
    split = whole.view(*lead, h // f, f, w // f, f, c)
    n = len(lead)
    return split.permute(*range(n), n, n + 2, n + 4, n + 1, n + 3).reshape(*lead, h // f, w // f, c * f * f)


def means(x: Tensor) -> Tensor:
    """Average the pixels of each feature pixel: [..., 3 f f, H, W] -> [..., 3, H, W]."""
    return x if x.shape[-3] == 3 else x.reshape(*x.shape[:-3], 3, -1, *x.shape[-2:]).mean(-3)


def padded(x: Tensor, f: int) -> Tensor:
    """Surround folded images [B, C f f, H, W] with one feature pixel whose pixels repeat the outermost pixels."""
    b, c, h, w = x.shape
    wide = x.new_empty(b, h + 2, w + 2, c).permute(0, 3, 1, 2)  # `F.pad` takes four times as long, channel by channel
    wide[..., 1:-1, 1:-1] = x
    for at, beside in ((0, 1), (-1, -2)):
        wide[..., at, :] = wide[..., beside, :]
    for at, beside in ((0, 1), (-1, -2)):  # corners too
        wide[..., at] = wide[..., beside]
    if f > 1:  # the outermost pixels repeat, not the outermost feature pixels
        pixels = wide.unflatten(1, (-1, f, f))  # type: ignore[no-untyped-call]
        for at, side in ((0, 0), (-1, f - 1)):
            pixels[..., at, :] = pixels[:, :, side : side + 1, :, at, :]
            pixels[..., at] = pixels[:, :, :, side : side + 1, :, at]
    return wide


def _extended(x: Tensor, rows: int, columns: int, f: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of f."""
    for axis in (rows, columns):
        if more := -x.shape[axis] % f:
            last = x.narrow(axis, x.shape[axis] - 1, 1)
            x = torch.cat([x, *[last] * more], dim=axis)
    return x.contiguous()
