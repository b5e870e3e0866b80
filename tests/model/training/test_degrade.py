"""BI and BD against weights written out here, independently of the code that makes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from model.training import degrade


def keys(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def reflected(i: int, n: int) -> int:
    while not 0 <= i < n:
        i = -1 - i if i < 0 else 2 * n - 1 - i
    return i


def quarter(row: list[float]) -> list[float]:
    """MATLAB's imresize(row, 1/4) of one row, sample by sample."""
    n = len(row)
    out = []
    for i in range(n // 4):
        centre = 4 * i + 1.5
        taps = range(math.floor(centre) - 9, math.floor(centre) + 11)
        weights = [keys((centre - j) / 4) for j in taps]
        out.append(sum(w * row[reflected(j, n)] for w, j in zip(weights, taps, strict=True)) / sum(weights))
    return out


def test_bi_is_matlabs_antialiased_bicubic():
    x = np.random.default_rng(0).uniform(0, 255, (24, 40))
    rows = np.array([quarter(list(row)) for row in x])
    expected = np.array([quarter(list(column)) for column in rows.T]).T
    assert np.abs(degrade.bi(torch.from_numpy(x)).numpy() - expected).max() < 1e-3


def test_interior_weights_of_bi_are_the_published_ones():
    # the sixteen taps of imresize(..., 1/4, 'bicubic') at distances 0.5 / 4, 1.5 / 4, ... (their sum is one)
    half = [0.2409668, 0.18188477, 0.09741211, 0.02270508, -0.01196289, -0.01831055, -0.01098633, -0.00170898]
    row = degrade.bicubic_weights(64, 16)[8]
    assert torch.allclose(row[34:42], torch.tensor(half), atol=1e-6)
    assert torch.allclose(row[26:34], torch.tensor(half[::-1]), atol=1e-6)


def test_bd_is_a_gaussian_centred_on_the_block_with_replicated_border():
    x = np.random.default_rng(1).uniform(0, 255, (16, 16))
    kernel = np.array([math.exp(-((k - 5.5) ** 2) / (2 * 1.6**2)) for k in range(12)])
    kernel /= kernel.sum()
    expected = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            for a in range(12):
                for b in range(12):  # imfilter anchors at the sixth tap, at pixel 2, 6, ...
                    y, z = (min(max(4 * c + 1 + k - 5, 0), 15) for c, k in ((i, a), (j, b)))
                    expected[i, j] += kernel[a] * kernel[b] * x[y, z]
    assert np.abs(degrade.bd(torch.from_numpy(x)).numpy() - expected).max() < 1e-3


@pytest.mark.parametrize("how", [degrade.bi, degrade.bd, degrade.bicubic_up])
@pytest.mark.parametrize("scale", [2, 4])
def test_a_flat_picture_stays_flat(how, scale):
    assert torch.allclose(how(torch.full((3, 16, 24), 77.0), scale=scale), torch.tensor(77.0), atol=1e-3)


@pytest.mark.parametrize("how", [degrade.bi, degrade.bd])
def test_lr_of_scale_two_lies_on_the_middles_of_its_blocks(how):
    ramp = torch.arange(32.0).expand(16, 32)
    assert torch.allclose(how(ramp, scale=2)[4, 4:-4], torch.arange(16)[4:-4] * 2 + 0.5, atol=1e-4)


def test_the_blur_is_the_same_in_lr_pixels():
    two, four = (degrade.blur_weights(16 * scale, scale=scale)[8] for scale in (2, 4))
    assert (len(two.nonzero()), len(four.nonzero())) == (6, 12)
    per_lr_pixel = [weights.reshape(16, -1).sum(1) for weights in (two, four)]
    assert torch.allclose(*per_lr_pixel, atol=0.03)


def test_rounding_is_matlabs():
    assert degrade.to_uint8(torch.tensor([-3.0, 0.5, 1.49, 2.5, 300.0])).tolist() == [0, 1, 1, 3, 255]


def test_a_size_that_four_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="30x16 is not divisible by 4"):
        degrade.bi(torch.zeros(3, 16, 30))
    with pytest.raises(ValueError, match="31x16 is not divisible by 2"):
        degrade.bd(torch.zeros(3, 16, 31), scale=2)
