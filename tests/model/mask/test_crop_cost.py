"""The crop overhead of each kind of device, and plans of whole frames."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.gates.estimator import Estimator, Layout
from model.gates.skipping import make_skipper
from model.mask.crop_cost import FULL, LIGHT_SLOW, crop_overhead
from model.mask.plan import plan_chunk
from model.mask.rectangles import Rectangle
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.routing import PRESETS, WHOLE_FRAMES

LIGHT = NetworkConfig(8, 2, "light", "light", coupled=True)
WHOLE = (Rectangle(0, 0, 24, 40),)
PRESET = replace(PRESETS["fast"], overhead=WHOLE_FRAMES)


@pytest.mark.parametrize(
    ("config", "device", "overhead"),
    [
        (NetworkConfig(), "cpu", FULL),
        (LIGHT, "cpu", LIGHT_SLOW),
        (NetworkConfig(), "cuda", WHOLE_FRAMES),
        (LIGHT, "cuda", WHOLE_FRAMES),
    ],
)
def test_the_overhead_belongs_to_a_kind_of_device(config: NetworkConfig, device: str, overhead: int) -> None:
    assert crop_overhead(config, torch.device(device), torch.float32) == overhead


def test_frames_of_every_size_are_computed_or_reused_whole() -> None:
    frames = torch.full((4, 24, 40, 3), 90, dtype=torch.uint8)
    frames[2:, :8, :8] = 200  # one tile changes
    plan = plan_chunk(frames, 4, None, 0, PRESET)
    assert plan.forward == [WHOLE, (), WHOLE, ()]
    assert plan.backward[3] == plan.backward[1] == WHOLE
    assert plan.backward[0] == plan.backward[2] == ()


def test_no_gate_works_on_whole_frames() -> None:
    network = BasicVSR(LIGHT)
    estimator = Estimator(LIGHT, Layout(((0, 2),), ((0, 2),), tail=False))
    assert make_skipper(network, estimator, PRESET, torch.zeros(1, 360, 640, 3, dtype=torch.uint8)) is None
