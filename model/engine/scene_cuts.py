"""Find scene cuts in the LR frames; the recurrent state must not cross a scene cut.

A scene cut between two successive frames meets three conditions, all measured on thumbnails: a large mean difference, a
low correlation, and different colours (histogram). Fast motion keeps the colours. A flash keeps the picture or only
brightens the picture. A fade changes little between two frames. The rule compares a frame only with the frame before:
chunk borders do not matter, and a flash needs no later frame.

In films and clips checked by eye, the thresholds separate all 18 cuts from fast pans, explosions, muzzle flashes and
fades. The rule misses dissolves, and cuts between two dim, similar scenes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.constants import constant

THUMBNAIL = (18, 32)
"""Most rows and columns of a thumbnail; each cell has at least CELL x CELL pixels."""
CELL = 4
SAMPLES = 4
"""Least samples along the side of a cell; larger frames are subsampled."""
BINS = 16
MIN_DIFFERENCE = 35.0
"""Mean absolute difference of RGB, levels of 255. Cuts: 37 to 125; motion: up to 40."""
MAX_CORRELATION = 0.7
"""Correlation of luma without its mean. Cuts: up to 0.67; flashes: 0.89 and above; motion: 0.38 and above."""
MIN_HISTOGRAM = 0.16
"""Half the L1 distance of colour histograms, mean over channels. Cuts: 0.18 to 0.78; motion: up to 0.14."""
BRIGHT, MIN_BLOWN = 235.0, 0.25
"""A full flash: the fraction of pixels at least this bright changes by more than MIN_BLOWN ..."""
MAX_AGAINST = 0.03
"""... and at most this fraction of the change goes the other way."""

_LUMA = (0.299, 0.587, 0.114)


def find_scene_cuts(frames: Tensor, previous: Tensor | None = None) -> list[int]:
    """Return the indices of the frames that begin a new scene, in order.

    `frames` are [T, H, W, 3] uint8 or uint16 RGB. Frame 0 is compared with `previous` [H, W, 3], the frame before;
    without `previous`, frame 0 begins no new scene. Runs on the device of the frames and synchronises once.
    """
    images = list(frames) if previous is None else [previous, *frames]
    if len(images) < 2:
        return []
    thumbs = torch.stack([_thumbnail(image) for image in images])
    first = 1 if previous is None else 0
    return [index for index, cut in enumerate(_is_cut(thumbs).tolist(), first) if cut]


def _thumbnail(frame: Tensor) -> Tensor:
    """Reduce a frame [H, W, 3] of integers to [3, h, w] float32, 0..255; one frame at a time to save memory."""
    h, w = frame.shape[:2]
    size = (min(THUMBNAIL[0], max(h // CELL, 1)), min(THUMBNAIL[1], max(w // CELL, 1)))
    step = max(min(h // (size[0] * SAMPLES), w // (size[1] * SAMPLES)), 1)
    image = frame[::step, ::step].permute(2, 0, 1).float().contiguous()
    if frame.dtype == torch.uint16:
        image = image / 257.0
    return F.adaptive_avg_pool2d(image, size)


def _is_cut(thumbs: Tensor) -> Tensor:
    """Check for each thumbnail of [T, 3, h, w] except the first whether a new scene begins: [T - 1] bool."""
    difference = (thumbs[1:] - thumbs[:-1]).abs().mean((1, 2, 3))
    luma = (thumbs * constant(_LUMA, thumbs.device).view(1, 3, 1, 1)).sum(1).flatten(1)
    return (
        (difference > MIN_DIFFERENCE)
        & (_correlation(luma) < MAX_CORRELATION)
        & (_histogram_distance(thumbs) > MIN_HISTOGRAM)
        & ~_flash(luma)
    )


def _correlation(luma: Tensor) -> Tensor:
    """Correlate successive frames [T, n]: [T - 1]; 0 for a frame of one colour."""
    centred = luma - luma.mean(1, keepdim=True)
    energy = centred.square().sum(1)
    return (centred[1:] * centred[:-1]).sum(1) / ((energy[1:] * energy[:-1]).sqrt() + 1.0)


def _histogram_distance(thumbs: Tensor) -> Tensor:
    bins = (thumbs.flatten(2) * (BINS / 256.0)).long().clamp_(0, BINS - 1)
    counts = F.one_hot(bins, BINS).float().mean(2)  # [T, 3, BINS]
    return (counts[1:] - counts[:-1]).abs().sum(2).mean(1) / 2


def _flash(luma: Tensor) -> Tensor:
    """Check for a flash: nearly all pixels brighten, many to white; or darken back from white."""
    change = luma[1:] - luma[:-1]
    up, down = change.clamp_min(0).sum(1), (-change).clamp_min(0).sum(1)
    one_sided = torch.minimum(up, down) <= MAX_AGAINST * (up + down)
    blown = (luma > BRIGHT).float().mean(1)
    return one_sided & ((blown[1:] - blown[:-1]).abs() > MIN_BLOWN)
