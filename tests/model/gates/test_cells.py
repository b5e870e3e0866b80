"""Cells of a frame as one batch: each comes out as in the whole frame, and what was not chosen stays."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.gates.cells import BATCH, run_cells


def features(height: int, width: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(1, 4, height, width).contiguous(memory_format=torch.channels_last)


def two_convolutions() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1)).requires_grad_(False)


@pytest.mark.parametrize(("height", "width"), [(32, 40), (20, 12), (37, 29), (97, 13), (5, 60)])
def test_cells_with_halo_enough_are_what_the_whole_frame_gives(height: int, width: int) -> None:
    """At the frame's edges too, where convolutions see zeros, and in cells of uneven size."""
    x, work = features(height, width), two_convolutions()
    chosen = np.ones((max(round(height / 8), 1), round(width / 8)), np.bool_)
    assert torch.allclose(run_cells(work, x, torch.zeros_like(x), chosen, 2), work(x), atol=1e-6)


def test_only_the_chosen_cells_are_written() -> None:
    x, work = features(20, 28), two_convolutions()
    chosen = np.zeros((3, 4), np.bool_)  # rows end at 6, 13 and 20, columns at each 7
    chosen[0, 1] = chosen[2, 3] = True
    out = run_cells(work, x, torch.full_like(x, 7.0), chosen, 2)
    inside = torch.zeros(20, 28, dtype=torch.bool)
    inside[:6, 7:14] = inside[13:, 21:] = True
    assert torch.allclose(out[..., inside], work(x)[..., inside], atol=1e-6)
    assert bool((out[..., ~inside] == 7.0).all())
    assert bool((run_cells(work, x, torch.full_like(x, 7.0), np.zeros((3, 4), np.bool_), 2) == 7.0).all())


def test_channels_need_not_be_last_in_memory() -> None:
    x, work = features(20, 28).contiguous(), two_convolutions()
    assert torch.allclose(run_cells(work, x, torch.zeros_like(x), np.ones((2, 3), np.bool_), 2), work(x), atol=1e-6)


def test_more_cells_than_a_batch() -> None:
    x, seen = features(8 * 9, 8 * 9), []

    def work(crops: Tensor) -> Tensor:
        seen.append(len(crops))
        return crops + 1

    out = run_cells(work, x, torch.zeros_like(x), np.ones((9, 9), np.bool_), 2)
    assert torch.equal(out, x + 1)
    assert seen == [BATCH, 81 - BATCH]
