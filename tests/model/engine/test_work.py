"""The observer of a chunk: what is done after each step, and a stop between two steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.engine.upscaler import Upscaler
from model.engine.work import Interrupted
from tests.model.engine.test_engine import WATER, upscaler


@pytest.fixture(scope="module")
def model() -> Upscaler:
    return upscaler()


class Observed:
    """An observer that ends the call at a number of steps."""

    def __init__(self, stop_at: int = 1_000_000) -> None:
        self.fractions: list[float] = []
        self._stop_at = stop_at

    def __call__(self, fraction: float) -> None:
        self.fractions.append(fraction)
        if len(self.fractions) >= self._stop_at:
            raise Interrupted


def test_each_step_is_told_and_changes_nothing(model: Upscaler) -> None:
    observed = Observed()
    plain = model.forward(WATER, None, lookahead=2, last=False)
    result = model.forward(WATER, None, lookahead=2, last=False, observer=observed)
    assert np.array_equal(plain.frames, result.frames)
    frames, emitted = len(WATER), len(WATER) - 2
    assert len(observed.fractions) == 1 + (frames - 1) + frames + emitted, "flows, backward steps, forward steps"
    assert observed.fractions == sorted(observed.fractions)
    assert (observed.fractions[0], observed.fractions[-1]) == (0.0, 1.0)
    assert max(np.diff(observed.fractions)) < 0.2


def test_a_stop_at_any_step_leaves_the_state_valid(model: Upscaler) -> None:
    before = model.forward(WATER[:4], None, lookahead=2, last=False)
    expected = model.forward(WATER[4:], before.state, lookahead=2, last=True)
    steps = Observed()
    model.forward(WATER[4:], before.state, lookahead=2, last=True, observer=steps)
    for stop_at in range(1, len(steps.fractions)):
        with pytest.raises(Interrupted):
            model.forward(WATER[4:], before.state, lookahead=2, last=True, observer=Observed(stop_at))
    last = model.forward(WATER[4:], before.state, lookahead=2, last=True, observer=Observed(len(steps.fractions)))
    assert np.array_equal(last.frames, expected.frames), "after the last step nothing is left to stop"


@pytest.mark.slow
def test_a_stop_while_the_dense_network_is_measured_keeps_the_frames() -> None:
    """A resumed job whose frames hardly move needs a measurement of the dense network, in the same call."""
    still = np.repeat(np.tile(WATER[:1], (1, 4, 4, 1)), 6, 0)
    model = upscaler()
    routing = replace(model.preset("balanced"), overhead=100)
    state = model.forward(still, None, lookahead=0, last=False, routing=routing).state
    still[1:, :8, :8] = 255 - still[1:, :8, :8]
    observed = Observed()
    result = upscaler().forward(still, state, lookahead=0, last=False, routing=routing, observer=observed)
    measured = observed.fractions.count(1.0)
    assert measured > 5, "the steps of the dense network"
    stop = Observed(len(observed.fractions) - measured + 3)
    stopped = upscaler().forward(still, state, lookahead=0, last=False, routing=routing, observer=stop)
    assert len(stop.fractions) < len(observed.fractions)
    assert np.array_equal(stopped.frames, result.frames)
    assert stopped.dense_seconds == pytest.approx(stopped.seconds), "no gain is claimed"
