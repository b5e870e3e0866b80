"""The dense network's time: measured where it has to be, and no longer than that is worth."""

import numpy as np
import pytest
import torch
from torch import Tensor

from model.engine.calibration import BUDGET, FRAMES, ROUNDS, DenseTimes
from model.engine.state import RecurrentState
from model.engine.upscaler import Upscaler
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.routing import preset


class Network:
    """Takes a second for each frame; notes how many there were."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, frames: Tensor, emit: int, before: RecurrentState | None) -> float:
        self.calls.append((emit, len(frames)))
        return float(len(frames))


def ask(times: DenseTimes, network: Network, emit: int, *, lookahead: int = 2, last: bool = False) -> float:
    """The dense time of a frame of a chunk that took half as long by its routing."""
    stored = torch.zeros(emit + lookahead, 8, 8, 3, dtype=torch.uint8)
    return times.a_frame(network, stored, emit, RecurrentState("m", stored[:0]), took=emit / 2, last=last)


def test_a_short_clip_pays_for_a_few_frames_once() -> None:
    times, network = DenseTimes(), Network()
    assert [ask(times, network, 24) for _ in range(3)] == [1.0] * 3
    assert network.calls == [(2, 2), (FRAMES, FRAMES)], "kernels are prepared, and one round"


def test_further_rounds_wait_until_they_are_little_of_what_was_computed() -> None:
    times, network = DenseTimes(), Network()
    computed = 0.0
    for _ in range(2000):
        ask(times, network, 24)
        computed += 12
        rounds = len(network.calls) - 1
        assert rounds == 1 or (rounds - 1) * FRAMES <= BUDGET * computed
    assert len(network.calls) == 1 + ROUNDS


def test_short_chunks_are_measured_as_they_are_and_the_end_is_held_to_them() -> None:
    times, network = DenseTimes(), Network()
    assert ask(times, network, 1) == 3.0, "the look-ahead is most of the work"
    assert network.calls == [(1, 3), (1, 3)]
    assert ask(times, network, 3, lookahead=0, last=True) == 3.0
    assert len(network.calls) == 2


def test_what_was_computed_everywhere_tells_its_time_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands still: what routing costs there is its planning, and nothing is run twice to find that out."""
    torch.manual_seed(3)
    network = BasicVSR(NetworkConfig(channels=8, blocks=1, flow="light", tail="light", coupled=True))
    model = Upscaler("seeded", network, "seeded:3", torch.device("cpu"), torch.float32)
    monkeypatch.setattr(model._accounting, "run_dense", pytest.fail)
    noise = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)
    result = model.forward(noise, None, lookahead=2, last=False, routing=preset("balanced", overhead=600))
    assert len(result.reports) == 10
    assert not any(report.units_left_out for report in result.reports)
    assert 0 < result.dense_seconds < result.seconds


def test_where_the_dense_network_has_no_memory_no_gain_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The routed frames are made by then: a job is not lost for want of a number."""
    network = BasicVSR(NetworkConfig(channels=8, blocks=1, flow="light", tail="light", coupled=True))
    model = Upscaler("any", network, "any", torch.device("cpu"), torch.float32)

    def full(*_: object, **__: object) -> float:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(model._accounting, "run_dense", full)
    still = np.full((12, 48, 64, 3), 90, np.uint8)
    result = model.forward(still, None, lookahead=2, last=False, routing=preset("balanced", overhead=600))
    assert any(report.units_left_out for report in result.reports)
    assert result.dense_seconds == pytest.approx(result.seconds)
