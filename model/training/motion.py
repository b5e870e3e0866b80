"""Moving clips from pictures: smooth pan, zoom and rotation, with a second layer in independent motion.

Photographs have more detail than compressed clips, and generated motion has no blur.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.training.degrade import resize, to_uint8

Frames = npt.NDArray[np.uint8]
MAX_SIDE = 1200
"""Limit of a picture's short side, in pixels. Larger pictures are scaled down first: their pixels are softer."""


def moving_clip(photo: Frames, layer: Frames, frames: int, size: int, rng: np.random.Generator) -> Frames:
    """Return a clip [frames, size, size, 3] of `photo` [H, W, 3] in motion, mostly below a moving part of `layer`."""
    shrink = rng.uniform(1.0, 1.5)
    clip = _shot(_planar(photo, shrink), frames, size, rng)
    if rng.random() < 0.6:
        over = _shot(_planar(layer, shrink), frames, size, rng)
        alpha = _moving_mask(frames, size, rng)
        clip = clip + alpha * (over - clip)
    return to_uint8(clip).permute(0, 2, 3, 1).contiguous().numpy()


def _planar(photo: Frames, shrink: float) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1))).float()
    h, w = x.shape[-2:]
    shrink *= max(1.0, min(h, w) / MAX_SIDE)
    return resize(x, round(h / shrink), round(w / shrink))


def _wander(frames: int, speed: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a smooth path [frames] from zero: constant velocity up to `speed` per frame, plus a slow oscillation."""
    t = np.arange(frames)
    swing = rng.uniform(0, 0.5) * speed * np.sin(2 * math.pi * (t / rng.uniform(8, 40) + rng.random()))
    path: npt.NDArray[np.float64] = rng.uniform(-1, 1) * speed * t + 2 * (swing - swing[0])
    return path


def _shot(photo: Tensor, frames: int, size: int, rng: np.random.Generator) -> Tensor:
    h, w = photo.shape[-2:]
    fast = 14.0 if rng.random() < 0.25 else 5.0  # HR pixels per frame
    zoom = np.exp(_wander(frames, rng.uniform(0, 0.015), rng) + rng.uniform(-0.15, 0.15))
    angle = _wander(frames, rng.uniform(0, 0.02), rng) + rng.uniform(-0.2, 0.2)
    x = rng.uniform(0.3, 0.7) * w + _wander(frames, fast, rng)
    y = rng.uniform(0.3, 0.7) * h + _wander(frames, fast * rng.uniform(0, 1), rng)
    half = size / 2
    theta = np.zeros((frames, 2, 3))
    theta[:, 0, 0] = half * np.cos(angle) * zoom / (w / 2)
    theta[:, 0, 1] = -half * np.sin(angle) * zoom / (w / 2)
    theta[:, 1, 0] = half * np.sin(angle) * zoom / (h / 2)
    theta[:, 1, 1] = half * np.cos(angle) * zoom / (h / 2)
    theta[:, 0, 2] = x / (w / 2) - 1
    theta[:, 1, 2] = y / (h / 2) - 1
    grid = F.affine_grid(torch.from_numpy(theta).float(), [frames, 3, size, size], align_corners=False)
    return F.grid_sample(
        photo.expand(frames, -1, -1, -1), grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )


def _moving_mask(frames: int, size: int, rng: np.random.Generator) -> Tensor:
    """Return the mask of a moving blob, [frames, 1, size, size] in [0, 1], with an edge about two pixels wide."""
    cx = rng.uniform(0.2, 0.8) * size + _wander(frames, 8.0, rng)
    cy = rng.uniform(0.2, 0.8) * size + _wander(frames, 5.0, rng)
    turn = _wander(frames, 0.04, rng)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float32)
    lobes = [(k, rng.uniform(0, 0.35) / k, rng.uniform(0, 2 * math.pi)) for k in range(2, 7)]
    radius = rng.uniform(0.15, 0.4) * size
    masks = []
    for i in range(frames):
        dx, dy = xs - cx[i], ys - cy[i]
        phi = np.arctan2(dy, dx) + turn[i]
        edge = radius * (1 + sum(a * np.cos(k * phi + p) for k, a, p in lobes))
        masks.append(np.clip((edge - np.hypot(dx, dy)) / 2 + 0.5, 0, 1))
    return torch.from_numpy(np.stack(masks)[:, None]).float()
