"""The dense network's time: told by the steps that ran anyway, and free."""

import numpy as np
import pytest
import torch

from model.engine.calibration import DenseTimes, Kind, StepCounts, StepTimes, Stopwatch
from model.engine.state import RecurrentState
from model.engine.upscaler import Upscaler
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.macs import macs_of_steps
from model.routing import Preset

LIGHT = NetworkConfig(channels=8, blocks=1, flow="light", tail="light", coupled=True)
ROUTED = Preset(overhead=60)


class Watch(Stopwatch):
    """A clock that stands still unless moved."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.now = 0.0

    @property
    def threads(self) -> int:
        return 1

    def mark(self) -> float:
        return self.now


def measured(watch: Watch, *steps: tuple[Kind, float, bool]) -> StepTimes:
    """The times of steps of a kind that take some seconds, on the whole frame or not."""
    times = StepTimes(watch)
    for kind, seconds, whole in steps:
        with times.step(kind, whole=whole):
            watch.now += seconds
    return times


def upscaler() -> Upscaler:
    torch.manual_seed(3)
    return Upscaler("seeded", BasicVSR(LIGHT), "seeded:3", torch.device("cpu"), torch.float32)


def test_a_dense_chunk_costs_its_dense_steps() -> None:
    """Crops do not count, nor does the first step of a kind, which prepares kernels."""
    dense, watch = DenseTimes(BasicVSR(LIGHT)), Watch()
    for kind, seconds in (("flow", 1.0), ("alignment", 2.0), ("backward", 30.0), ("forward", 40.0), ("output", 5.0)):
        dense.add("size", measured(watch, (kind, 99.0, True), (kind, seconds, True), (kind, 0.5, False)))
    assert dense.known("size")
    assert not dense.known("another size")
    assert dense.seconds("size", StepCounts(flows=7, backward=5, forward=3)) == 7 * 3 + 5 * 30 + 3 * 45


def test_a_kind_that_never_ran_whole_follows_from_the_others() -> None:
    network, watch = BasicVSR(LIGHT), Watch()
    macs, dense = macs_of_steps(network, 64, 64), DenseTimes(network)
    dense.add("size", measured(watch, ("backward", 10.0, True), ("forward", 1.0, False)))
    assert dense.seconds("size", StepCounts(forward=1)) == pytest.approx(
        10 * (macs.forward + 1.5 * macs.output) / macs.backward
    )


def test_a_step_inside_another_counts_once() -> None:
    watch = Watch()
    times = StepTimes(watch)
    with times.step("alignment", whole=True) as outer:
        watch.now += 1
        with times.step("backward", whole=True, within=outer):
            watch.now += 10
        watch.now += 2
    assert dict(times.dense()) == {"alignment": 3, "backward": 10}
    assert times.routed() == 13


def test_steps_are_counted_as_the_dense_network_runs_them() -> None:
    assert StepCounts.of(6, 4, continues=False) == StepCounts(flows=5 + 3, backward=6, forward=4)
    assert StepCounts.of(6, 4, continues=True) == StepCounts(flows=5 + 4, backward=6, forward=4)
    assert StepCounts.of(1, 1, continues=False) == StepCounts(flows=0, backward=1, forward=1)


def test_no_frame_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A still scene computes one frame of each branch; that is enough."""
    model = upscaler()
    monkeypatch.setattr(model._accounting, "run_dense", pytest.fail)
    still = np.full((12, 48, 64, 3), 90, np.uint8)
    first = model.forward(still, None, lookahead=2, last=False, routing=ROUTED)
    second = model.forward(still, first.state, lookahead=2, last=False, routing=ROUTED)
    assert any(report.units_left_out for report in first.reports)
    assert first.dense_seconds > first.seconds
    assert second.dense_seconds > second.seconds


def test_what_was_computed_everywhere_tells_its_time_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands still: what routing costs there is its planning, and nothing is run twice to find that out."""
    model = upscaler()
    monkeypatch.setattr(model._accounting, "run_dense", pytest.fail)
    noise = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)
    result = model.forward(noise, None, lookahead=2, last=False, routing=ROUTED)
    assert len(result.reports) == 10
    assert not any(report.units_left_out for report in result.reports)
    assert 0 < result.dense_seconds < result.seconds


def resumed() -> tuple[np.ndarray, RecurrentState]:
    """The rest of a clip in which one corner moves, and the state before, from another process."""
    clip = np.full((12, 48, 64, 3), 90, np.uint8)
    clip[6:, :8, :8] = np.arange(6, dtype=np.uint8)[:, None, None, None] * 40
    return clip[6:], upscaler().forward(clip[:6], None, lookahead=0, last=False, routing=ROUTED).state


def test_a_resumed_job_measures_a_frame_once() -> None:
    rest, state = resumed()
    model = upscaler()
    runs, run = [], model._accounting.run_dense
    model._accounting.run_dense = lambda *args, **kwargs: runs.append(run(*args, **kwargs)) or runs[-1]
    for _ in range(2):
        result = model.forward(rest, state, lookahead=0, last=False, routing=ROUTED)
        assert any(report.units_left_out for report in result.reports)
        assert result.dense_seconds > 0
    assert len(runs) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_where_the_dense_network_has_no_memory_no_gain_is_claimed(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The routed frames are made by then: a job is not lost for want of a number."""
    rest, state = resumed()
    model = upscaler()

    def full(*_: object, **__: object) -> float:
        raise error

    monkeypatch.setattr(model._accounting, "run_dense", full)
    result = model.forward(rest, state, lookahead=0, last=False, routing=ROUTED)
    assert any(report.units_left_out for report in result.reports)
    assert result.dense_seconds == pytest.approx(result.seconds)


def test_the_time_of_a_second_gpu_is_that_of_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[object] = []

    class Event:
        def __init__(self, **_: object) -> None:
            pass

        def record(self, stream: object = None) -> None:
            recorded.append(stream)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    Stopwatch(torch.device("cuda:1")).mark()
    assert recorded == ["stream of cuda:1"]
