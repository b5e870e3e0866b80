"""Scene cuts, found in the LR frames: where the recurrent state must not be carried on.

A cut is a change between two successive frames that is large (mean difference), leaves no picture in common
(correlation) and brings other colours (histogram), all on thumbnails. Motion, however fast, keeps the colours; a flash
keeps the picture or only brightens it; a fade is never large between two frames. The rule looks at a frame and the one
before it alone: so the cuts that are found do not depend on where chunks end, and a flash needs no frame after it.

The thresholds separate all 18 cuts from everything else (fast pans, explosions, muzzle flashes, fades) in the films and
clips that this was tried on, looked at by eye. Missed by design: dissolves, and cuts between two dim, alike scenes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

THUMBNAIL = (18, 32)
"""Most rows and columns; a cell is at least CELL pixels wide and high."""
CELL = 4
SAMPLES = 4
"""Samples along a cell's side at least: of larger frames only every so many pixels are read."""
BINS = 16
MIN_DIFFERENCE = 35.0
"""Mean absolute difference of RGB, levels of 255. Cuts: 37 to 125; motion: up to 40."""
MAX_CORRELATION = 0.7
"""Of luma, without its mean. Cuts: up to 0.67; flashes: 0.89 and above; motion: 0.38 and above."""
MIN_HISTOGRAM = 0.16
"""Half the L1 distance of the colours' histograms, mean over channels. Cuts: 0.18 to 0.78; that motion: up to 0.14."""
BRIGHT, MIN_BLOWN = 235.0, 0.25
"""A flash that leaves no picture: so much more of the frame is at least this bright ..."""
MAX_AGAINST = 0.03
"""... and so little of the change goes the other way."""

_LUMA = (0.299, 0.587, 0.114)


def find_cuts(frames: Tensor, previous: Tensor | None = None) -> list[int]:
    """Indices of the frames that begin a new scene, in order.

    `frames` [T, H, W, 3] uint8 or uint16 RGB; `previous` [H, W, 3] is the frame before them, with which frame 0 is
    compared; without it, frame 0 begins no new scene. Runs on the frames' device; synchronises once.
    """
    images = list(frames) if previous is None else [previous, *frames]
    if len(images) < 2:
        return []
    thumbs = torch.stack([_thumbnail(image) for image in images])
    found = _is_cut(thumbs).nonzero().flatten().tolist()
    return [index + (1 if previous is None else 0) for index in found]


def _thumbnail(frame: Tensor) -> Tensor:
    """[H, W, 3] integers -> [3, h, w] float32, 0..255. One frame at a time, so memory stays small."""
    h, w = frame.shape[:2]
    size = (min(THUMBNAIL[0], max(h // CELL, 1)), min(THUMBNAIL[1], max(w // CELL, 1)))
    step = max(min(h // (size[0] * SAMPLES), w // (size[1] * SAMPLES)), 1)
    image = frame[::step, ::step].permute(2, 0, 1).float().contiguous()
    if frame.dtype == torch.uint16:
        image = image / 257.0
    return F.adaptive_avg_pool2d(image, size)


def _is_cut(thumbs: Tensor) -> Tensor:
    """[T, 3, h, w] -> [T - 1] bool: whether each frame but the first begins a new scene."""
    difference = (thumbs[1:] - thumbs[:-1]).abs().mean((1, 2, 3))
    luma = (thumbs * thumbs.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1).flatten(1)
    return (
        (difference > MIN_DIFFERENCE)
        & (_correlation(luma) < MAX_CORRELATION)
        & (_histogram_distance(thumbs) > MIN_HISTOGRAM)
        & ~_flash(luma)
    )


def _correlation(luma: Tensor) -> Tensor:
    """A frame without any picture correlates with nothing: 0."""
    centred = luma - luma.mean(1, keepdim=True)
    energy = centred.square().sum(1)
    return (centred[1:] * centred[:-1]).sum(1) / ((energy[1:] * energy[:-1]).sqrt() + 1.0)


def _histogram_distance(thumbs: Tensor) -> Tensor:
    bins = (thumbs.flatten(2) * (BINS / 256.0)).long().clamp_(0, BINS - 1)
    counts = F.one_hot(bins, BINS).float().mean(2)  # [T, 3, BINS]
    return (counts[1:] - counts[:-1]).abs().sum(2).mean(1) / 2


def _flash(luma: Tensor) -> Tensor:
    """Whether nearly everything only got brighter, much of it to white; or came back from there."""
    change = luma[1:] - luma[:-1]
    up, down = change.clamp_min(0).sum(1), (-change).clamp_min(0).sum(1)
    one_sided = torch.minimum(up, down) <= MAX_AGAINST * (up + down)
    blown = (luma > BRIGHT).float().mean(1)
    return one_sided & ((blown[1:] - blown[:-1]).abs() > MIN_BLOWN)
