"""What has changed between two LR frames, tile by tile.

Noise of a codec changes sign from pixel to pixel, and little is left of it in the mean of a quarter of a tile; of what
moves, however slowly, more is left. So the means may differ less than the pixels.

The planner asks this for every frame of a job in both branches, so a frame is laid out once by its place in a tile:
then each measure is a sum over leading dimensions, and no pooling. On a CPU that is a few calls that run well on one
core, where small parallel ones would wait for a core that an encoder has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.mask.rectangles import Mask, dilate
from model.routing import TILE, Preset

QUARTER = TILE // 2
"""Side of a quarter of a tile, in pixels."""
_YCC = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))
"""BT.601's luma and colour differences of RGB."""


def tiles_of(height: int, width: int) -> tuple[int, int]:
    """Tiles in a column and in a row of such a frame; the last ones may be partial."""
    return -(-height // TILE), -(-width // TILE)


@dataclass(frozen=True)
class Grid:
    """How the pixels of a frame size fall into tiles: weights that make means of sums, where tiles are partial too."""

    per_pixel: Tensor
    """[4, 1, h, w] for each quarter of each tile, one by the pixels it has; 0 where it has none."""
    per_quarter: Tensor
    """[h, w] for each tile, one by the quarters it has."""

    @classmethod
    def of(cls, frame: Tensor) -> Grid:
        """That of a frame [H, W, 3]."""
        height, width = frame.shape[:2]
        pixels = _by_place(frame.new_ones(height, width, 1, dtype=torch.float32)).sum(0)  # [4, 1, h, w]
        quarters = (pixels > 0).sum((0, 1))
        return cls(torch.where(pixels > 0, 1 / pixels, 0), 1 / quarters)


@dataclass(frozen=True)
class Picture:
    """A frame, or what tiles were last computed on, as it is compared."""

    planes: Tensor
    """[16, 4, 3, h, w] luma and colour differences in levels of 255: by pixel of a quarter, quarter of a tile, tile."""
    means: Tensor
    """[4, h, w] the mean luma of each quarter."""

    @classmethod
    def of(cls, frame: Tensor, grid: Grid) -> Picture:
        """That of a frame [H, W, 3] of integers."""
        peak = 255.0 if frame.dtype == torch.uint8 else 65535.0
        rgb = _by_place(frame).float()
        mix = rgb.new_tensor(_YCC) * (255.0 / peak)
        planes = (mix @ rgb.flatten(3)).view(rgb.shape)
        return cls(planes, (planes[:, :, :1].sum(0) * grid.per_pixel)[:, 0])

    def updated(self, where: Mask, now: Picture) -> Picture:
        """This, with the tiles of `where` as they are in `now`."""
        if where.all():
            return now
        if not where.any():
            return self
        chosen = torch.from_numpy(where).to(self.means.device)
        return Picture(torch.where(chosen, now.planes, self.planes), torch.where(chosen, now.means, self.means))


def changed(now: Picture, seen: Picture, grid: Grid, preset: Preset) -> Mask:
    """The tiles in which two frames differ by a preset's numbers, and those within reach of a small change."""
    detail = (now.planes - seen.planes).abs_().sum(0).mul_(grid.per_pixel)  # [4, 3, h, w]
    mean = detail.sum(0).mul_(grid.per_quarter)
    drift = (now.means - seen.means).abs_().sum(0).mul_(grid.per_quarter)
    hot = (mean[0] > preset.luma) | (mean[1:].amax(0) > preset.chroma) | (drift > preset.drift)
    found: Mask = torch.cat([hot[None], detail[:, 0] > preset.detail]).cpu().numpy()  # at once: one wait for the device
    tiles: Mask = found[0]
    small = found[1:]
    if small.any():
        h, w = tiles.shape
        quarters = small.reshape(2, 2, h, w).transpose(2, 0, 3, 1).reshape(2 * h, 2 * w)
        tiles |= dilate(quarters, preset.reach).reshape(h, 2, w, 2).any((1, 3))
    return tiles


def _by_place(frame: Tensor) -> Tensor:
    """[H, W, C] -> [16, 4, C, h, w]: pixel of a quarter, quarter of a tile, channel, tile; 0 beyond the frame."""
    height, width, channels = frame.shape
    h, w = tiles_of(height, width)
    whole = frame
    if (h * TILE, w * TILE) != (height, width):
        whole = frame.new_zeros(h * TILE, w * TILE, channels)
        whole[:height, :width] = frame
    split = whole.view(h, 2, QUARTER, w, 2, QUARTER, channels)
    return split.permute(2, 5, 1, 4, 6, 0, 3).reshape(QUARTER * QUARTER, 4, channels, h, w)
