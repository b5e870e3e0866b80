"""PSNR, SSIM and flicker against numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from model import quality as metrics
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.macs import macs_per_frame
from model.zoo.models import load_network


def test_luma_of_pure_colours():
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0]]).T[:, :, None]
    assert metrics.luma(colours)[:, 0].tolist() == pytest.approx([16.0, 235.0, 81.481])  # 16 + 219; 16 + 65.481


def test_psnr_by_hand():
    a = torch.zeros(2, 2)
    b = torch.tensor([[0.0, 2.0], [4.0, 0.0]])  # mean square error (4 + 16) / 4 = 5
    assert metrics.psnr(a, b) == pytest.approx(10 * math.log10(65025 / 5))
    assert metrics.psnr(a, a) == math.inf


def test_psnr_y_of_a_grey_step():
    a, b = torch.full((3, 4, 4), 100), torch.full((3, 4, 4), 110)
    assert metrics.psnr_y(a, b) == pytest.approx(20 * math.log10(255 / (10 * 219 / 255)))


def test_ssim_of_two_flat_planes_is_its_luminance_term():
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)  # no variance: the other term is one
    assert metrics.ssim(torch.full((16, 16), 100.0), torch.full((16, 16), 120.0)) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_an_inverted_plane_by_hand():
    # one window: weighted mean 0, variance v of a, covariance -v
    a = torch.randn(11, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 40
    window = torch.exp(-((torch.arange(11.0, dtype=torch.float64) - 5) ** 2) / 4.5)
    window = torch.outer(window, window) / window.sum() ** 2
    a = a - (window * a).sum()
    v, c2 = (window * a * a).sum().item(), (0.03 * 255) ** 2
    assert metrics.ssim(a, -a) == pytest.approx((c2 - 2 * v) / (c2 + 2 * v), abs=1e-9)


def test_a_still_error_does_not_flicker_and_a_changing_one_does():
    gt = torch.full((3, 4, 4), 100)
    assert metrics.flicker(gt + 7, gt + 7, gt, gt) == 0
    assert metrics.flicker(gt, gt + 10, gt, gt) == pytest.approx(10 * 219 / 255)


def test_macs_of_a_network_by_hand():
    h, w = 16, 32
    network = BasicVSR(NetworkConfig(channels=8, blocks=1, flow="light", tail="light", coupled=True))
    level = 9 * (11 * 32 + 32 * 32 + 32 * 2)
    flow = level * sum((h >> k) * (w >> k) for k in range(1, 5))
    block = 9 * 8 * 8 * 2
    trunks = 9 * (3 + 8) * 8 + block + 9 * (3 + 16) * 8 + block
    assert macs_per_frame(network, h, w) == 2 * flow + h * w * (trunks + 9 * 8 * 48)


def test_the_small_networks_stay_within_their_budget():
    network = load_network("small", Path())[0]
    assert macs_per_frame(network, 180, 320) <= 12e9
