"""Detect changes between two LR frames, tile by tile.

Codec noise changes sign from pixel to pixel and nearly cancels in the mean over a quarter of a tile. Slow motion does
not cancel. The threshold on means is therefore lower than the threshold on pixels.

For a network with a fold (`model.network.folding`), tiles consist of feature pixels. Every LR pixel counts: a mean
would hide a change within a feature pixel.

The planner compares every frame of a job in both branches. It first reorders each frame by position within a tile.
Every measure is then a sum over leading dimensions instead of a pooling. On a CPU, a single core is enough for these
few calls; small parallel calls would wait for a core that an encoder occupies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.mask.rectangles import Mask, dilate
from model.network.constants import constant
from model.routing import TILE, Preset

QUARTER = TILE // 2
"""Side of a quarter of a tile in feature pixels."""
_YCC = (0.299, 0.587, 0.114, -0.169, -0.331, 0.5, 0.5, -0.419, -0.081)
"""Luma and colour differences of RGB (ITU-R BT.601), a row each."""


def tiles_of(height: int, width: int) -> tuple[int, int]:
    """Return the number of tiles in a column and in a row of a frame; the last tiles may be partial."""
    return -(-height // TILE), -(-width // TILE)


@dataclass(frozen=True)
class Grid:
    """Weights for a frame size: they turn sums over tiles into means, for partial tiles too."""

    per_pixel: Tensor
    """[4, 1, h, w] inverse of the count of LR pixels in each quarter of each tile; 0 for empty quarters."""
    per_quarter: Tensor
    """[h, w] inverse of the number of non-empty quarters of each tile."""

    @classmethod
    def of(cls, frame: Tensor) -> Grid:
        """Build the grid for the size of a folded frame [H, W, 3 f f]."""
        height, width, channels = frame.shape
        pixels = _by_place(frame.new_ones(height, width, channels // 3, dtype=torch.float32)).sum((0, 2))[:, None]
        quarters = (pixels > 0).sum((0, 1))
        return cls(torch.where(pixels > 0, 1 / pixels, 0), 1 / quarters)


@dataclass(frozen=True)
class Picture:
    """Pixels in the form that `changed` compares: a frame, or the last computed version of each tile."""

    planes: Tensor
    """[16 f f, 4, 3, h, w] luma and colour differences, levels of 255: pixel in quarter, quarter, plane, tile."""
    means: Tensor
    """[4, h, w] mean luma of each quarter."""

    @classmethod
    def of(cls, frame: Tensor, grid: Grid) -> Picture:
        """Convert a folded frame [H, W, 3 f f] of integers."""
        peak = 255.0 if frame.dtype == torch.uint8 else 65535.0
        rgb = _pixels(_by_place(frame)).float()
        mix = constant(_YCC, rgb.device).view(3, 3) * (255.0 / peak)
        planes = (mix @ rgb.flatten(3)).view(rgb.shape)
        return cls(planes, (planes[:, :, :1].sum(0) * grid.per_pixel)[:, 0])

    def updated(self, where: Mask, now: Picture) -> Picture:
        """Return a copy with the tiles of mask `where` taken from `now`."""
        if where.all():
            return now
        if not where.any():
            return self
        chosen = torch.from_numpy(where).to(self.means.device)
        return Picture(torch.where(chosen, now.planes, self.planes), torch.where(chosen, now.means, self.means))


def changed(now: Picture, seen: Picture, grid: Grid, preset: Preset) -> Mask:
    """Find the tiles in which two frames differ by the thresholds of a preset.

    Tiles within `Preset.reach` of a small moving detail count as changed too.
    """
    detail = (now.planes - seen.planes).abs_().sum(0).mul_(grid.per_pixel)  # [4, 3, h, w]
    mean = detail.sum(0).mul_(grid.per_quarter)
    drift = (now.means - seen.means).abs_().sum(0).mul_(grid.per_quarter)
    hot = (mean[0] > preset.luma) | (mean[1:].amax(0) > preset.chroma) | (drift > preset.drift)
    found: Mask = (
        torch.cat([hot[None], detail[:, 0] > preset.detail]).cpu().numpy()
    )  # one transfer: one wait for the device
    tiles: Mask = found[0]
    small = found[1:]
    if small.any():
        h, w = tiles.shape
        quarters = small.reshape(2, 2, h, w).transpose(2, 0, 3, 1).reshape(2 * h, 2 * w)
        tiles |= dilate(quarters, preset.reach).reshape(h, 2, w, 2).any((1, 3))
    return tiles


def _by_place(frame: Tensor) -> Tensor:
    """Reorder [H, W, C] to [16, 4, C, h, w]: place in quarter, quarter in tile, channel, tile; 0 outside the frame."""
    height, width, channels = frame.shape
    h, w = tiles_of(height, width)
    whole = frame
    if (h * TILE, w * TILE) != (height, width):
        whole = frame.new_zeros(h * TILE, w * TILE, channels)
        whole[:height, :width] = frame
    split = whole.view(h, 2, QUARTER, w, 2, QUARTER, channels)
    return split.permute(2, 5, 1, 4, 6, 0, 3).reshape(QUARTER * QUARTER, 4, channels, h, w)


def _pixels(places: Tensor) -> Tensor:
    """Separate the LR pixels of each feature pixel: [16, 4, 3 f f, h, w] -> [16 f f, 4, 3, h, w]."""
    if places.shape[2] == 3:
        return places
    place, quarter, channels, h, w = places.shape
    split = places.view(place, quarter, 3, channels // 3, h, w).permute(0, 3, 1, 2, 4, 5)
    return split.reshape(-1, quarter, 3, h, w)
