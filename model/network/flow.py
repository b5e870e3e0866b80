"""Optical flow between two LR frames, and warping by flow.

`SpyNet`: Ranjan and Black, "Optical Flow Estimation using a Spatial Pyramid Network", CVPR 2017 (arXiv:1611.00850), in
BasicVSR's form and with BasicSR's parameter names. `LightFlow`: the same idea at half resolution with small
convolutions, trained jointly with its network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.constants import constant
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


Sampled = Tensor | FeatureTable
"""Features from which `warp` samples: [B, C, H, W], or a table of them."""


def warp(x: Sampled, flow: Tensor, padding: str = "zeros", origin: tuple[int, int] = (0, 0)) -> Tensor:
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
    limit = constant((2.0 / max(x.shape[-1] - 1, 1), 2.0 / max(x.shape[-2] - 1, 1)), x.device)
    return F.grid_sample(
        x.float(), position * limit - 1.0, mode="bilinear", padding_mode=padding, align_corners=True
    ).to(x.dtype)


@dataclass(frozen=True)
class Pyramid:
    """Images at the scales of a flow network, for every flow from or to these images."""

    images: list[Tensor]
    """[B, C, h, w] float32, the coarsest first."""
    size: tuple[int, int]
    """(H, W) of the images before reduction, and of the flow."""

    @classmethod
    def joined(cls, pyramids: Sequence[Pyramid]) -> Pyramid:
        """Join the batches of pyramids of equal sizes."""
        levels = zip(*(pyramid.images for pyramid in pyramids), strict=True)
        return cls([torch.cat(level) for level in levels], pyramids[0].size)

    def split(self, count: int) -> list[Pyramid]:
        """Split the batch into `count` pyramids of equal batches."""
        levels = zip(*(level.chunk(count) for level in self.images), strict=True)
        return [Pyramid(list(images), self.size) for images in levels]


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

    def pyramid(self, x: Tensor) -> Pyramid:
        """Reduce images [B, 3, H, W], RGB in [0, 1]."""
        h, w = x.shape[-2:]
        size = (-(-h // 32) * 32, -(-w // 32) * 32)
        image = (F.interpolate(x.float(), size, mode="bilinear", align_corners=False) - self.mean) / self.std
        images = [image]
        for _ in range(5):
            images.insert(0, F.avg_pool2d(images[0], 2))
        return Pyramid(images, (h, w))

    def forward(self, ref: Pyramid, supp: Pyramid) -> Tensor:
        """Estimate the flow from `ref` to `supp`: [B, 2, H, W] in pixels."""
        flow = torch.zeros_like(ref.images[0][:, :2])
        for level, (r, s, module) in enumerate(zip(ref.images, supp.images, self.basic_module, strict=True)):
            if level:  # the coarsest level starts from zero flow
                flow = F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True) * 2.0
            x = torch.cat([r, warp(s, flow, "border"), flow], dim=1)
            flow = flow + module(x.to(next(module.parameters()).dtype, memory_format=torch.channels_last)).float()
        return _resized(flow, *ref.size)


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
        dtype = next(self.parameters()).dtype
        x = torch.cat([self._costs(ref, supp).to(dtype), flow.to(dtype)], dim=1)
        return convolve_all(self.body, x.contiguous(memory_format=torch.channels_last)).float()

    @staticmethod
    def _costs(ref: Tensor, supp: Tensor) -> Tensor:
        """Mean absolute difference over 3 x 3 pixels of `ref` and `supp` shifted by (-1..1, -1..1), minus the mean.

        Scaled to about unit variance.
        """
        h, w = ref.shape[-2:]
        around = F.pad(supp, (1, 1, 1, 1), mode="replicate")[:, 0]
        shifted = torch.stack([around[:, y : y + h, x : x + w] for y in range(3) for x in range(3)], dim=1)
        costs = _sums_of_nine(shifted.sub_(ref).abs_()).mul_(_cost_scale(h, w, ref.device))
        return costs.sub_(costs.mean(dim=1, keepdim=True))


def _sums_of_nine(x: Tensor) -> Tensor:
    """Sum over 3 x 3 pixels, zero beyond the edges. Separate rows and columns take a third of the time of pooling."""
    x = F.pad(x, (1, 1, 1, 1))
    x = (x[..., :-2, :] + x[..., 1:-1, :]).add_(x[..., 2:, :])
    return (x[..., :-2] + x[..., 1:-1]).add_(x[..., 2:])


@lru_cache(maxsize=16)
def _cost_scale(h: int, w: int, device: torch.device) -> Tensor:
    """Return [1, 1, h, w]: ten over the number of pixels that `_sums_of_nine` adds."""
    with torch.inference_mode(False):  # training saves the tensor for the gradient
        return 10.0 / _sums_of_nine(torch.ones(1, 1, h, w, device=device))


class LightFlow(nn.Module):
    """Pyramid flow on brightness at half resolution and below, for any size; zero before training."""

    def __init__(self, width: int = 32, levels: int = 4) -> None:
        super().__init__()
        self.levels = nn.ModuleList(LightLevel(width) for _ in range(levels))

    def pyramid(self, x: Tensor) -> Pyramid:
        """Reduce the brightness of images [B, any, H, W] in [0, 1]."""
        brightness, *others = x.float().unbind(1)
        for other in others:
            brightness = brightness + other
        image, images = (brightness / x.shape[1])[:, None], list[Tensor]()
        for _ in self.levels:
            image = F.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)
            images.insert(0, image)
        return Pyramid(images, (x.shape[-2], x.shape[-1]))

    def forward(self, ref: Pyramid, supp: Pyramid) -> Tensor:
        """Estimate the flow from `ref` to `supp`: [B, 2, H, W] in pixels, float32."""
        coarsest = ref.images[0]
        flow = coarsest.new_zeros(coarsest.shape[0], 2, *coarsest.shape[-2:])
        for level, r, s in zip(self.levels, ref.images, supp.images, strict=True):
            flow = _resized(flow, *r.shape[-2:])
            flow = flow + level(r, warp(s, flow, "border"), flow)
        return _resized(flow, *ref.size)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the convolutions."""
        return next(self.parameters()).dtype


def _resized(flow: Tensor, h: int, w: int) -> Tensor:
    before = flow.shape[-2:]
    if before == (h, w):
        return flow
    flow = F.interpolate(flow, (h, w), mode="bilinear", align_corners=False)
    return flow * constant((w / before[1], h / before[0]), flow.device).view(1, 2, 1, 1)
