"""A stream with overlapping halves of chunks: the bytes of `forward`, in order, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from model.engine.overlap import Group
from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Upscaler, groups
from model.engine.work import Interrupted
from model.errors import DeviceError, StateMismatch
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.routing import Preset
from tests.model.engine.test_engine import WATER

CUT = np.concatenate([WATER[:4], 255 - WATER[3::-1], WATER[4:8]])
ROUTED = Preset(overhead=60)


@pytest.fixture(autouse=True)
def cores() -> Iterator[None]:
    """Two threads for the network, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Upscaler:
    torch.manual_seed(7)
    network = BasicVSR(NetworkConfig(channels=8, blocks=1, flow="light", tail="light", coupled=True))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return Upscaler("seeded", network, "seeded:7", torch.device("cpu"), torch.float32)


def grouped(frames: np.ndarray, chunk: int, lookahead: int, *, resumed: bool = False) -> Iterator[Group]:
    for group, last in groups(frames, chunk, 0 if resumed else lookahead):
        yield Group(np.stack(group), last)


def serial(model: Upscaler, given: Iterable[Group], state: RecurrentState | None, **options: Any) -> list[ChunkResult]:
    results = []
    for group in given:
        results.append(model.forward(group.frames, state, last=group.last, **options))
        state = results[-1].state
    return results


def same_state(one: RecurrentState, other: RecurrentState) -> bool:
    return one.model == other.model and all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
        for name in ("pending", "last", "feat", "hr", "reference", "index")
        for a, b in [(getattr(one, name), getattr(other, name))]
    )


@contextmanager
def no_thread_left() -> Iterator[None]:
    before, threads = threading.active_count(), torch.get_num_threads()
    yield
    assert threading.active_count() == before
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("routing", ["off", ROUTED])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("chunk", "lookahead"), [(1, 0), (2, 3), (5, 1), (20, 2)])
def test_a_stream_equals_forward(model: Upscaler, chunk: int, lookahead: int, threads: int, routing: Any) -> None:
    """Across a scene cut, for every number of threads; frames, states, scene cuts and counts."""
    options = {"lookahead": lookahead, "routing": routing}
    expected = serial(model, grouped(CUT, chunk, lookahead), None, **options)
    torch.set_num_threads(threads)
    with no_thread_left():
        found = list(model.stream(grouped(CUT, chunk, lookahead), None, **options))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.frames, other.frames)
        assert one.scene_cuts == other.scene_cuts
        assert [report.units_left_out for report in one.reports] == [report.units_left_out for report in other.reports]
        assert same_state(one.state, other.state)


def test_a_stream_continues_from_a_state(model: Upscaler) -> None:
    before, *_ = serial(model, grouped(WATER, 3, 2), None, lookahead=2)
    rest = WATER[5:]
    expected = serial(model, grouped(rest, 2, 2, resumed=True), before.state, lookahead=2)
    found = list(model.stream(grouped(rest, 2, 2, resumed=True), before.state, lookahead=2))
    assert [np.array_equal(a.frames, b.frames) for a, b in zip(found, expected, strict=True)] == [True] * len(expected)
    assert same_state(found[-1].state, expected[-1].state)


@pytest.mark.parametrize(
    ("threads", "ahead", "begun"), [(2, None, 2), (4, None, 3), (4, 1, 1), (8, None, 5), (8, 0, 0)]
)
def test_further_chunks_begin_before_a_chunk_is_taken(
    model: Upscaler, threads: int, ahead: int | None, begun: int
) -> None:
    """As many as keep the cores at work, and as fit."""
    read = 0

    def counted() -> Iterator[Group]:
        nonlocal read
        for group in grouped(WATER, 1, 0):
            read += 1
            yield group

    torch.set_num_threads(threads)
    stream = model.stream(counted(), None, lookahead=0, ahead=ahead)
    for taken in (1, 2):
        next(stream)
        assert read == taken + begun
    stream.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_frames_come_one_by_one_before_the_result(model: Upscaler, threads: int) -> None:
    """Also across a scene cut; the frames are those of the result."""
    received: list[list[np.ndarray]] = []

    def receiving() -> Iterator[Group]:
        for group in grouped(CUT, 5, 1):
            received.append([])
            yield Group(group.frames, group.last, receiver=received[-1].append)

    torch.set_num_threads(threads)
    for number, result in enumerate(model.stream(receiving(), None, lookahead=1)):
        assert np.array_equal(np.stack(received[number]), result.frames)


@pytest.mark.parametrize("stop_at", [(0, 0.0), (0, 0.3), (0, 0.9), (1, 0.1), (1, 0.9)])
def test_an_interruption_of_either_half_ends_both(model: Upscaler, stop_at: tuple[int, float]) -> None:
    """Fractions of a chunk never fall, and no further chunk begins."""
    fractions: dict[int, list[float]] = {0: [], 1: [], 2: []}

    def observed() -> Iterator[Group]:
        for number, group in enumerate(grouped(WATER[:9], 3, 0)):

            def observe(fraction: float, number: int = number) -> None:
                fractions[number].append(fraction)
                if (number, fraction) >= stop_at:
                    raise Interrupted

            yield Group(group.frames, group.last, observe)

    with no_thread_left(), pytest.raises(Interrupted):
        list(model.stream(observed(), None, lookahead=0))
    assert all(told == sorted(told) for told in fractions.values())
    assert fractions[2] in ([], [0.0])


def test_a_closed_stream_leaves_nothing_behind(model: Upscaler) -> None:
    with no_thread_left():
        stream = model.stream(grouped(WATER, 2, 1), None, lookahead=1)
        next(stream)
        stream.close()


def test_an_error_comes_after_the_results_before(model: Upscaler) -> None:
    """The second group has another size: the first still comes out."""

    def groups_given() -> Iterator[Group]:
        yield Group(WATER[:3], last=False)
        yield Group(WATER[3:6, :20], last=True)

    stream = model.stream(groups_given(), None, lookahead=0)
    with no_thread_left():
        assert len(next(stream).frames) == 3
        with pytest.raises(StateMismatch):
            next(stream)


@pytest.mark.parametrize("part", ["flow", "backward_branch", "forward_branch", "hr_frames"])
def test_memory_that_runs_out_in_any_part_is_told(model: Upscaler, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(f"model.engine.execute.ChunkRun.{part}", full)
    with no_thread_left(), pytest.raises(DeviceError, match="smaller chunk"):
        list(model.stream(grouped(WATER, 2, 0), None, lookahead=0))


def test_the_shares_of_the_clock_add_up(model: Upscaler) -> None:
    """Overlapping halves share the wall-clock time: their sum is not longer than the run."""
    begun = time.perf_counter()
    results = list(model.stream(grouped(WATER, 2, 1), None, lookahead=1))
    wall = time.perf_counter() - begun
    assert 0 < sum(result.seconds for result in results) <= wall
    assert all(result.dense_seconds == pytest.approx(result.seconds) for result in results), "nothing was left out"


def test_a_network_whose_rounding_depends_on_threads_has_no_crew() -> None:
    network = BasicVSR(NetworkConfig(channels=8, blocks=1, flow="spynet", tail="light", coupled=True))
    model = Upscaler("seeded", network, "seeded:7", torch.device("cpu"), torch.float32)
    before = threading.active_count()
    stream = model.stream(grouped(WATER[:2, :16, :16], 1, 0), None, lookahead=0)
    next(stream)
    assert threading.active_count() == before
    stream.close()
