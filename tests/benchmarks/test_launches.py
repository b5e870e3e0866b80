"""Launches and synchronisations of a GPU, counted on the device "meta"."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.launches import META, NETWORKS, Launches, dense_run


@pytest.mark.parametrize(("name", "most"), [("small", 125), ("basicvsr", 500)])
def test_a_dense_frame_takes_few_launches_and_hardly_waits(name: str, most: int) -> None:
    dense = dense_run(NETWORKS[name], 180, 320, 8).per_frame(8)
    assert dense.launches <= most
    assert dense.waits <= 0.5


def _convolved(x: Tensor) -> Tensor:
    return F.conv2d(x, torch.empty(2, 3, 3, 3, device=META), torch.empty(2, device=META))


@pytest.mark.parametrize(
    ("run", "launches", "waits"),
    [
        (lambda x: x[:, 1:].permute(0, 2, 1, 3).detach(), 0, 0),
        (lambda x: x + 1.0, 1, 0),
        (_convolved, 2, 0),
        (lambda x: x.new_tensor([1.0, 2.0]), 0, 1),
        (lambda x: torch.tensor([1.0], device=META), 0, 1),
        (lambda x: x.sum().item(), 1, 1),
        (lambda x: x.cpu(), 0, 1),
        (lambda x: x.to("cpu", non_blocking=True), 0, 0),
        (lambda x: torch.empty(2, pin_memory=False).to(META, non_blocking=True), 0, 0),
        (lambda x: torch.empty(2).to(META), 0, 1),
        (lambda x: x.nonzero(), 1, 1),
        (lambda x: x[0, 0, :, torch.tensor([0, 1])], 1, 1),
    ],
)
def test_what_counts(run: Callable[[Tensor], object], launches: int, waits: int) -> None:
    x = torch.empty(1, 3, 8, 8, device=META)
    with torch.inference_mode(), Launches() as counted:
        run(x)
    assert (counted.launches.total(), counted.waits.total()) == (launches, waits)
