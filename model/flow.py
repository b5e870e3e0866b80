"""Optical flow between two LR frames, and warping by it.

`SpyNet`: Ranjan and Black, "Optical Flow Estimation using a Spatial Pyramid Network", CVPR 2017 (arXiv:1611.00850), in
the form that BasicVSR uses, under BasicSR's parameter names. `LightFlow`: the same idea at half resolution with small
convolutions, learnt jointly with the network that uses it.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@lru_cache(maxsize=16)
def _pixel_grid(h: int, w: int, device: torch.device) -> Tensor:
    ys, xs = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    return torch.stack([xs, ys], dim=-1).float()


def warp(x: Tensor, flow: Tensor, padding: str = "zeros") -> Tensor:
    """Sample `x` [B, C, H, W] bilinearly at each pixel's position plus `flow` [B, 2, H, W] (pixels).

    Computed in float32 whatever the type of `x` (faster than bfloat16 on CPU, and positions need the digits); returned
    in the type of `x`. Outside of the frame `x` counts as zero, or as its border with `padding="border"`.
    """
    h, w = x.shape[-2:]
    grid = _pixel_grid(h, w, x.device) + flow.float().permute(0, 2, 3, 1)
    grid = grid * grid.new_tensor([2.0 / max(w - 1, 1), 2.0 / max(h - 1, 1)]) - 1.0
    return F.grid_sample(x.float(), grid, mode="bilinear", padding_mode=padding, align_corners=True).to(x.dtype)


class PyramidLevel(nn.Module):
    """SPyNet's G_k: five 7x7 convolutions from (ref, warped supp, upsampled flow) to the flow's residual."""

    def __init__(self) -> None:
        super().__init__()
        widths = [8, 32, 64, 32, 16, 2]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 7, 1, 3), nn.ReLU(inplace=True)]
        self.basic_module = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.basic_module(x)  # type: ignore[no-any-return]


class SpyNet(nn.Module):
    """Six-level spatial pyramid network, float32 in and out. The size need not be divisible by anything."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.basic_module = nn.ModuleList(PyramidLevel() for _ in range(6))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, ref: Tensor, supp: Tensor) -> Tensor:
        """Flow from `ref` to `supp`: [B, 3, H, W] twice, RGB in [0, 1] -> [B, 2, H, W] in pixels."""
        h, w = ref.shape[-2:]
        size = (-(-h // 32) * 32, -(-w // 32) * 32)
        flow = self._pyramid(self._resized(ref, size), self._resized(supp, size))
        flow = F.interpolate(flow, (h, w), mode="bilinear", align_corners=False)
        return flow * flow.new_tensor([w / size[1], h / size[0]]).view(1, 2, 1, 1)

    def _resized(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = F.interpolate(x.to(self.mean.dtype), size, mode="bilinear", align_corners=False)
        return (x - self.mean) / self.std

    def _pyramid(self, ref: Tensor, supp: Tensor) -> Tensor:
        refs, supps = [ref], [supp]
        for _ in range(5):
            refs.insert(0, F.avg_pool2d(refs[0], 2))
            supps.insert(0, F.avg_pool2d(supps[0], 2))
        flow = ref.new_zeros(ref.shape[0], 2, *refs[0].shape[-2:])
        for level, (r, s, module) in enumerate(zip(refs, supps, self.basic_module, strict=True)):
            if level:  # the first level starts from zero flow at its own size
                flow = F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True) * 2.0
            flow = flow + module(torch.cat([r, warp(s, flow, "border"), flow], dim=1))
        return flow


class LightLevel(nn.Module):
    """One level of `LightFlow`: (ref, warped supp, upsampled flow) to the flow's residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(8, width, 5, 1, 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2, 3, 1, 1),
        )
        nn.init.zeros_(self.body[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.body[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


class LightFlow(nn.Module):
    """Pyramid flow at half resolution and below; starts as zero flow. Any size from 1 x 1."""

    def __init__(self, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        self.levels = nn.ModuleList(LightLevel(width) for _ in range(levels))

    def forward(self, ref: Tensor, supp: Tensor) -> Tensor:
        """Flow from `ref` to `supp`: [B, 3, H, W] twice, RGB in [0, 1] -> [B, 2, H, W] in pixels, float32."""
        h, w = ref.shape[-2:]
        pyramid = [torch.cat([ref, supp], dim=1).float()]
        for _ in self.levels:
            pyramid.append(F.avg_pool2d(pyramid[-1], 2, ceil_mode=True, count_include_pad=False))
        flow = ref.new_zeros(ref.shape[0], 2, *pyramid[-1].shape[-2:], dtype=torch.float32)
        for level, images in zip(self.levels, reversed(pyramid[1:]), strict=True):
            flow = self._resized(flow, images.shape[-2], images.shape[-1])
            r, s = images[:, :3], images[:, 3:]
            x = torch.cat([r, warp(s, flow, "border"), flow], dim=1)
            flow = flow + level(x.to(self.dtype)).float()
        return self._resized(flow, h, w)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the convolutions compute."""
        return next(self.parameters()).dtype

    @staticmethod
    def _resized(flow: Tensor, h: int, w: int) -> Tensor:
        before = flow.shape[-2:]
        if before == (h, w):
            return flow
        flow = F.interpolate(flow, (h, w), mode="bilinear", align_corners=False)
        return flow * flow.new_tensor([w / before[1], h / before[0]]).view(1, 2, 1, 1)
