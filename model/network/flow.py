"""Optical flow between two LR frames, and warping by flow.

`SpyNet`: Ranjan and Black, "Optical Flow Estimation using a Spatial Pyramid Network", CVPR 2017 (arXiv:1611.00850), in
BasicVSR's form and with BasicSR's parameter names. `LightFlow`: the same idea at half resolution with small
convolutions, trained jointly with its network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.kernels import convolve_all


@lru_cache(maxsize=16)
def _pixel_grid(h: int, w: int, device: torch.device) -> Tensor:
    """Return [2, h, w] float32: column and row of each pixel."""
    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    return torch.stack([columns, rows]).float()


_NEXT, _EQUAL_PAIR = 1 << 32, (1 << 32) + 1
"""As two 32-bit integers in one word, the lower first: (0, 1) and (1, 1)."""


@dataclass(frozen=True)
class FeatureTable:
    """Features of frames in a layout from which `warp` samples fast, any number of times."""

    rows: Tensor
    """[B (H + 3) (W + 3), C]: the pixels inside a border of zeros, one pixel before and two behind."""
    size: tuple[int, int]
    """(H, W)."""

    @classmethod
    def of(cls, x: Tensor) -> FeatureTable:
        """Build the table of features `x` [B, C, H, W], in their number format."""
        b, c, h, w = x.shape
        table = x.new_empty(b, h + 3, w + 3, c)
        for border in (table[:, 0], table[:, h + 1 :], table[:, :, 0], table[:, :, w + 1 :]):
            border.zero_()
        table[:, 1 : h + 1, 1 : w + 1] = x.permute(0, 2, 3, 1)
        return cls(table.view(-1, c), (h, w))

    def sample(self, x: Tensor, y: Tensor) -> Tensor:
        """Sample bilinearly at `x`, `y` [B, h, w] in pixels: [B h w, C]; zero outside the frame. Overwrites both.

        Each sample is a sum of four weighted rows: on a CPU more than twice as fast as `grid_sample` for channels-last
        features.
        """
        (h, w), width = self.size, self.size[1] + 3
        x, y = x.clamp_(-1, w), y.clamp_(-1, h)  # all zero beyond
        left, top = x.floor(), y.floor()
        right, bottom = x.sub_(left), y.sub_(top)
        first = top.add_(1).mul_(width).add_(left).add_(1).long()  # exact: float32 holds integers up to 2 ** 24
        if len(x) > 1:
            first += (h + 3) * width * torch.arange(len(x), device=x.device).view(-1, 1, 1)
        pairs = first.mul_(_EQUAL_PAIR).add_(_NEXT)  # two neighbours in one word: half the work of stacking
        rows = torch.stack([pairs, pairs + width * _EQUAL_PAIR], dim=-1).view(torch.int32)
        weights = torch.empty(*x.shape, 4, device=x.device)
        upper = 1 - bottom
        torch.sub(upper, torch.mul(upper, right, out=weights[..., 1]), out=weights[..., 0])
        torch.sub(bottom, torch.mul(bottom, right, out=weights[..., 3]), out=weights[..., 2])
        weights = weights.view(-1, 4).to(self.rows.dtype)
        return F.embedding_bag(rows.view(-1, 4), self.rows, mode="sum", per_sample_weights=weights)


def warp(x: Tensor | FeatureTable, flow: Tensor, padding: str = "zeros", origin: tuple[int, int] = (0, 0)) -> Tensor:
    """Sample `x` [B, C, H, W] bilinearly at each pixel's position plus `flow` [B, 2, h, w] (pixels).

    `flow` covers the region of `x` whose top left pixel (y, x) is `origin`. Positions are float32. The result
    [B, C, h, w] has the number format of `x`. Outside the frame `x` is zero; with `padding="border"` the nearest pixel
    of the frame repeats.
    """
    (top, left), (h, w) = origin, flow.shape[-2:]
    if isinstance(x, FeatureTable):
        columns, rows = _pixel_grid(top + h, left + w, flow.device)
        sampled = x.sample(flow[:, 0].float() + columns[top:, left:], flow[:, 1].float() + rows[top:, left:])
        return sampled.view(-1, h, w, sampled.shape[1]).permute(0, 3, 1, 2)
    grid = _pixel_grid(top + h, left + w, x.device)[:, top:, left:].permute(1, 2, 0)
    position = grid + flow.float().permute(0, 2, 3, 1)
    limit = position.new_tensor([2.0 / max(x.shape[-1] - 1, 1), 2.0 / max(x.shape[-2] - 1, 1)])
    return F.grid_sample(
        x.float(), position * limit - 1.0, mode="bilinear", padding_mode=padding, align_corners=True
    ).to(x.dtype)


class PyramidLevel(nn.Module):
    """SPyNet's G_k: five 7x7 convolutions from (ref, warped supp, upsampled flow) to the residual of the flow."""

    def __init__(self) -> None:
        super().__init__()
        widths = [8, 32, 64, 32, 16, 2]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 7, 1, 3), nn.ReLU(inplace=True)]
        self.basic_module = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return convolve_all(self.basic_module, x)


class SpyNet(nn.Module):
    """Spatial pyramid network of six levels, float32 in and out, for frames of any size.

    The convolutions may use a narrower number format: they compute residuals, and the sum of the flow stays float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.basic_module = nn.ModuleList(PyramidLevel() for _ in range(6))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, ref: Tensor, supp: Tensor) -> Tensor:
        """Estimate the flow from `ref` to `supp`: [B, 3, H, W] twice, RGB in [0, 1] -> [B, 2, H, W] in pixels."""
        h, w = ref.shape[-2:]
        size = (-(-h // 32) * 32, -(-w // 32) * 32)
        flow = self._pyramid(self._resized(ref, size), self._resized(supp, size))
        flow = F.interpolate(flow, (h, w), mode="bilinear", align_corners=False)
        return flow * flow.new_tensor([w / size[1], h / size[0]]).view(1, 2, 1, 1)

    def _resized(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = F.interpolate(x.float(), size, mode="bilinear", align_corners=False)
        return (x - self.mean) / self.std

    def _pyramid(self, ref: Tensor, supp: Tensor) -> Tensor:
        refs, supps = [ref], [supp]
        for _ in range(5):
            refs.insert(0, F.avg_pool2d(refs[0], 2))
            supps.insert(0, F.avg_pool2d(supps[0], 2))
        flow = ref.new_zeros(ref.shape[0], 2, *refs[0].shape[-2:])
        for level, (r, s, module) in enumerate(zip(refs, supps, self.basic_module, strict=True)):
            if level:  # the coarsest level starts from zero flow
                flow = F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True) * 2.0
            x = torch.cat([r, warp(s, flow, "border"), flow], dim=1)
            flow = flow + module(x.to(next(module.parameters()).dtype, memory_format=torch.channels_last)).float()
        return flow


class LightLevel(nn.Module):
    """One level of `LightFlow`: (matching costs of nine shifts, upsampled flow) to the residual of the flow.

    The costs say for each shift by at most one pixel how well the images match. A small convolution of both images
    hardly learns that.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(11, width, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2, 3, 1, 1),
        )
        nn.init.zeros_(self.body[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.body[-1].bias)  # type: ignore[arg-type]

    def forward(self, ref: Tensor, supp: Tensor, flow: Tensor) -> Tensor:
        """Map `ref`, the warped `supp` [B, 1, H, W] and the `flow` [B, 2, H, W] to a residual [B, 2, H, W], float32."""
        x = torch.cat([10.0 * self._costs(ref, supp), flow], dim=1)  # scaled to about unit variance
        x = x.to(next(self.parameters()).dtype, memory_format=torch.channels_last)
        return convolve_all(self.body, x).float()

    @staticmethod
    def _costs(ref: Tensor, supp: Tensor) -> Tensor:
        """Mean absolute difference over 3 x 3 pixels of `ref` and `supp` shifted by (-1..1, -1..1), minus the mean."""
        h, w = ref.shape[-2:]
        around = F.pad(supp, (1, 1, 1, 1), mode="replicate")[:, 0]
        shifted = torch.stack([around[:, y : y + h, x : x + w] for y in range(3) for x in range(3)], dim=1)
        costs = _sums_of_nine((shifted - ref).abs()) / _sums_of_nine(torch.ones_like(ref[:1]))
        return costs - costs.mean(dim=1, keepdim=True)


def _sums_of_nine(x: Tensor) -> Tensor:
    """Sum over 3 x 3 pixels, zero beyond the edges. Separate rows and columns take a third of the time of pooling."""
    x = F.pad(x, (1, 1, 1, 1))
    x = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    return x[..., :-2] + x[..., 1:-1] + x[..., 2:]


class LightFlow(nn.Module):
    """Pyramid flow on brightness at half resolution and below, for any size; zero before training."""

    def __init__(self, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        self.levels = nn.ModuleList(LightLevel(width) for _ in range(levels))

    def forward(self, ref: Tensor, supp: Tensor) -> Tensor:
        """Estimate the flow from `ref` to `supp`: [B, any, H, W] twice in [0, 1] -> [B, 2, H, W] in pixels, float32."""
        h, w = ref.shape[-2:]
        pyramid = [torch.stack([ref.float().mean(dim=1), supp.float().mean(dim=1)], dim=1)]
        for _ in self.levels:
            pyramid.append(F.avg_pool2d(pyramid[-1], 2, ceil_mode=True, count_include_pad=False))
        flow = ref.new_zeros(ref.shape[0], 2, *pyramid[-1].shape[-2:], dtype=torch.float32)
        for level, images in zip(self.levels, reversed(pyramid[1:]), strict=True):
            flow = self._resized(flow, images.shape[-2], images.shape[-1])
            r, s = images[:, :1], images[:, 1:]
            flow = flow + level(r, warp(s, flow, "border"), flow)
        return self._resized(flow, h, w)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the convolutions."""
        return next(self.parameters()).dtype

    @staticmethod
    def _resized(flow: Tensor, h: int, w: int) -> Tensor:
        before = flow.shape[-2:]
        if before == (h, w):
            return flow
        flow = F.interpolate(flow, (h, w), mode="bilinear", align_corners=False)
        return flow * flow.new_tensor([w / before[1], h / before[0]]).view(1, 2, 1, 1)
