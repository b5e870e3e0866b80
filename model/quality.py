"""Quality measures of the literature: PSNR and SSIM on MATLAB's Y, without cropping; and a measure of flicker.

Frames are [..., 3, H, W], RGB, 0..255, rounded to whole levels as in an image file.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PEAK = 255.0
MAX_DB = 100.0
"""PSNR in means for a frame that equals the ground truth; its true PSNR is infinite."""


def luma(rgb: Tensor) -> Tensor:
    """Compute Y of MATLAB's rgb2ycbcr (ITU-R BT.601, 16..235): [..., 3, H, W] -> [..., H, W], float64, not rounded."""
    r, g, b = rgb.double().unbind(-3)
    return 16.0 + (65.481 * r + 128.553 * g + 24.966 * b) / 255.0


def psnr(a: Tensor, b: Tensor) -> float:
    """Compute the peak signal-to-noise ratio in dB (peak 255) of two arrays of one shape; infinite for equal arrays."""
    mse = (a.double() - b.double()).square().mean().item()
    return math.inf if mse == 0 else 10.0 * math.log10(PEAK * PEAK / mse)


def psnr_y(a: Tensor, b: Tensor) -> float:
    """Compute the PSNR of MATLAB's Y of two frames [3, H, W], in dB."""
    return psnr(luma(a), luma(b))


def ssim(a: Tensor, b: Tensor) -> float:
    """Compute the structural similarity of two planes [H, W] of at least 11 x 11 (Wang et al., IEEE TIP 2004).

    Gaussian window of 11 x 11 with sigma 1.5, K1 0.01, K2 0.03; mean over the positions at which the window fits.
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
    """Compute the SSIM of MATLAB's Y of two frames [3, H, W]."""
    return ssim(luma(a), luma(b))


def flicker(before: Tensor, after: Tensor, gt_before: Tensor, gt_after: Tensor) -> float:
    """Compute the mean absolute difference between the temporal changes of a video and of its ground truth.

    In levels of Y, for two successive frames [3, H, W] each. An error that stays constant over time counts zero.
    """
    change = luma(after) - luma(before)
    gt_change = luma(gt_after) - luma(gt_before)
    return (change - gt_change).abs().mean().item()
