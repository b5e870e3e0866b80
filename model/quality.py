"""Quality as the papers count it: PSNR and SSIM on MATLAB's Y, nothing cropped; and a measure of flicker.

Frames are [..., 3, H, W], RGB, 0..255, already rounded to whole levels, as an image file would hold them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PEAK = 255.0
MAX_DB = 100.0
"""What a frame equal to the ground truth, whose PSNR is infinite, counts in a mean."""


def luma(rgb: Tensor) -> Tensor:
    """Y of MATLAB's rgb2ycbcr (ITU-R BT.601, 16..235), not rounded: [..., 3, H, W] -> [..., H, W], float64."""
    r, g, b = rgb.double().unbind(-3)
    return 16.0 + (65.481 * r + 128.553 * g + 24.966 * b) / 255.0


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB (peak 255) of two arrays of one shape; infinite where they are equal."""
    mse = (a.double() - b.double()).square().mean().item()
    return math.inf if mse == 0 else 10.0 * math.log10(PEAK * PEAK / mse)


def psnr_y(a: Tensor, b: Tensor) -> float:
    """PSNR of MATLAB's Y, of two frames [3, H, W]."""
    return psnr(luma(a), luma(b))


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of two planes [H, W], each at least 11 x 11 (Wang et al., IEEE TIP 2004).

    Gaussian window of 11 x 11 and sigma 1.5, K1 0.01, K2 0.03, mean over the positions where the window fits.
    """
    offsets = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def blurred(x: Tensor) -> Tensor:
        x = F.conv2d(x[None, None], window.view(1, 1, 11, 1))
        return F.conv2d(x, window.view(1, 1, 1, 11))[0, 0]

    a, b = a.double(), b.double()
    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    )
    return similarity.mean().item()


def ssim_y(a: Tensor, b: Tensor) -> float:
    """SSIM of MATLAB's Y, of two frames [3, H, W]."""
    return ssim(luma(a), luma(b))


def flicker(before: Tensor, after: Tensor, gt_before: Tensor, gt_after: Tensor) -> float:
    """How far the change between two successive frames is from the ground truth's, in levels of Y, mean absolute.

    Zero where each pixel changes exactly as it does in the ground truth; a still error does not count.
    """
    change = luma(after) - luma(before)
    gt_change = luma(gt_after) - luma(gt_before)
    return (change - gt_change).abs().mean().item()
