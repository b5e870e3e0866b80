"""Strands and their executors: order, conditions, errors, and the shares of the cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from model.engine.clock import Clock
from model.engine.strands import Condition, Crew, Executor, Fate, Inline, Steps, Strand, beside, share

CLOCK = Clock(torch.device("cpu"))


@pytest.fixture(params=["inline", "crew"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "inline":
        yield Inline(CLOCK)
    else:
        with Crew(2, CLOCK) as crew:
            yield crew


def noted(log: list[str], name: str, conditions: list[Condition | None]) -> Steps[str]:
    for condition in conditions:
        yield condition
        log.append(name)
    return name


def strand(steps: Steps[str], turn: int, fate: Fate, *after: Strand[str]) -> Strand[str]:
    return Strand(steps, np.zeros(2), (turn, 0), fate, after)


def test_a_step_waits_for_its_condition(executor: Executor) -> None:
    log: list[str] = []
    first = strand(noted(log, "first", [None, lambda: "second" in log]), 0, Fate())
    second = strand(noted(log, "second", [lambda: "first" in log]), 1, Fate())
    executor.start(first, second)
    assert executor.wait(first) == "first"
    assert log == ["first", "second", "first"]


def test_a_strand_begins_after_others(executor: Executor) -> None:
    log: list[str] = []
    first, second = (strand(noted(log, name, [None, None]), 5, Fate()) for name in ("first", "second"))
    last = strand(noted(log, "last", [None]), 0, Fate(), first, second)
    executor.start(last, first, second)
    executor.wait(last)
    assert log[-1] == "last"
    assert len(log) == 5


def test_the_calling_thread_prefers_an_earlier_turn() -> None:
    log: list[str] = []
    strands = [strand(noted(log, str(turn), [None, None]), turn, Fate()) for turn in (2, 0, 1)]
    inline = Inline(CLOCK)
    inline.start(*strands)
    inline.wait(strands[0])
    assert log == ["0", "0", "1", "1", "2", "2"]


def test_an_error_ends_the_strands_that_share_a_fate_and_no_other(executor: Executor) -> None:
    def failing() -> Steps[str]:
        yield None
        raise ValueError("broken")

    log: list[str] = []
    fate = Fate()
    bad, never = strand(failing(), 0, fate), strand(noted(log, "never", [lambda: False]), 1, fate)
    other = strand(noted(log, "other", [None]), 2, Fate())
    executor.start(never, bad, other)
    for each in (bad, never):
        with pytest.raises(ValueError, match="broken"):
            executor.wait(each)
    assert executor.wait(other) == "other"
    assert log == ["other"]


@pytest.mark.parametrize("threads", [2, 3, 4, 8, 16])
def test_steps_side_by_side_share_the_cores(threads: int) -> None:
    """One heavy strand on half of the cores, and as many light ones as the other half has cores."""
    others = beside(threads)
    for light in range(1, others + 1):
        assert share(threads, 1, light, of_heavy=True) == threads // 2
        assert threads // 2 + light * share(threads, 1, light, of_heavy=False) <= threads
        assert light * share(threads, 0, light, of_heavy=False) <= threads
    assert share(threads, 1, 0, of_heavy=True) == share(threads, 0, 1, of_heavy=False) == threads
    assert share(threads, 1, 50, of_heavy=False) == 1


@pytest.mark.parametrize(("threads", "together"), [(2, 2), (4, 3), (8, 5)])
def test_a_crew_runs_as_many_steps_together(threads: int, together: int) -> None:
    """More steps than that never begin: each waits until all others have begun."""
    meeting = threading.Barrier(together)

    def meet() -> Steps[int]:
        yield None
        return meeting.wait(60)

    with Crew(threads, CLOCK) as crew:
        strands = [Strand(meet(), np.zeros(2), (turn, 0), Fate()) for turn in range(2 * together)]
        crew.start(*strands)
        assert sorted(crew.wait(each) for each in strands) == sorted([*range(together)] * 2)


def test_the_stream_with_the_least_time_runs_first() -> None:
    log: list[str] = []
    used = {"busy": 2.0, "idle": 1.0}
    strands = [
        Strand(noted(log, name, [None]), np.zeros(2), (turn, 0), Fate(lambda name=name: used[name]))
        for turn, name in enumerate(used)
    ]
    inline = Inline(CLOCK)
    inline.start(*strands)
    inline.wait(strands[0])
    assert log == ["idle", "busy"]
