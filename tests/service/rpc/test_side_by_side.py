"""Chunks of streams side by side: the bytes of the pipeline, order, memory, and streams cut off in mid-chunk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from jobs.settings import Settings
from model.engine.clock import Clock
from model.engine.strands import Crew
from model.engine.upscaler import Upscaler
from model.engine.work import Work as Steps
from model.network.basicvsr import BasicVSR, NetworkConfig
from service.rpc.grouping import FrameGroup, FrameGrouper
from service.rpc.inference import InferenceOutcome, InferenceTask, StreamInference, UpscaledGroup
from service.rpc.scheduler import Lane, Place, Scheduler
from service.rpc.session import FrameTicket, Snapshot
from service.rpc.stream_config import StreamConfig, resolve
from skipvsr.v1 import upscaler_pb2 as pb
from tests.model.engine.test_overlap import same_state
from tests.support.processes import wait_until
from tests.support.rpc_server import expected, noise

CREW = partial(Crew, 2, Clock(torch.device("cpu")))


@pytest.fixture(scope="module")
def model() -> Upscaler:
    torch.manual_seed(7)
    network = BasicVSR(NetworkConfig(channels=8, blocks=1, flow="light", tail="light", coupled=True))
    return Upscaler("seeded", network, "seeded:7", torch.device("cpu"), torch.float32)


@contextmanager
def side_by_side(**options: Any) -> Iterator[Scheduler]:
    """A scheduler with two cores. No thread remains at the end."""
    threads, cores = threading.active_count(), torch.get_num_threads()
    scheduler = Scheduler(partial(torch.set_num_threads, 2), crew=CREW, places=2, **options)
    scheduler.start()
    yield scheduler
    scheduler.close(10)
    assert threading.active_count() == threads
    assert torch.get_num_threads() == cores


class Stream:
    """A stream in a lane, without a connection."""

    def __init__(self, scheduler: Scheduler, model: Upscaler, start: Snapshot | None = None, **config: Any) -> None:
        message = pb.StreamConfig(**{"width": 32, "height": 24, "routing": "off", **config})
        self.config: StreamConfig = resolve(message, Settings(), "seeded", 4)
        start = start or Snapshot()
        self.inference = StreamInference(model, self.config, start, 1)
        self.outcomes: list[InferenceOutcome] = []
        self._scheduler, self.lane = scheduler, scheduler.open_lane(ahead=1)
        self._grouper = FrameGrouper(self.config, pending=len(start.pending))

    def send(self, frames: Sequence[np.ndarray], *, first: int = 0, last: bool = True) -> None:
        for number, frame in enumerate(frames, first):
            if group := self._grouper.add(frame, FrameTicket(number, number, 0.0)):
                self._submit(group)
        if last:
            self._submit(self._grouper.end())
            self._submit(None)

    def _submit(self, group: FrameGroup | None) -> None:
        self._scheduler.submit(self.lane, InferenceTask(self.inference, group, self.outcomes.append))

    def wait(self) -> None:
        wait_until(lambda: bool(self.outcomes) and not self.groups(last=1), 60, "the stream does not end")

    def groups(self, last: int | None = None) -> list[UpscaledGroup]:
        found = self.outcomes[-last if last else 0 :]
        return [outcome for outcome in found if isinstance(outcome, UpscaledGroup)]

    def frames(self) -> list[np.ndarray]:
        return [frame for group in self.groups() for frame in group.frames]

    def close(self) -> None:
        self.inference.closed.set()
        self._scheduler.close_lane(self.lane)


@pytest.mark.parametrize(("chunk", "lookahead"), [(1, 0), (2, 3), (4, 1)])
def test_streams_side_by_side_equal_the_pipeline(model: Upscaler, chunk: int, lookahead: int) -> None:
    clips = [noise(9, seed=seed) for seed in range(3)]
    clips[1][5:] = [frame // 4 for frame in clips[1][5:]]  # suddenly dark: a scene cut
    with side_by_side() as scheduler:
        streams = [Stream(scheduler, model, chunk=chunk, lookahead=lookahead) for _ in clips]
        for stream, clip in zip(streams, clips, strict=True):
            stream.send(clip)
        for stream, clip in zip(streams, clips, strict=True):
            stream.wait()
            assert np.array_equal(stream.frames(), expected(model, clip, chunk=chunk, lookahead=lookahead))
            tickets = [ticket.sequence for group in stream.groups() for ticket in group.tickets]
            assert tickets == list(range(9))


def test_a_stream_resumes_from_each_point(model: Upscaler) -> None:
    """A point knows nothing of the chunks that were begun ahead."""
    frames = noise(9)
    with side_by_side() as scheduler:
        whole = Stream(scheduler, model, chunk=2, lookahead=1)
        whole.send(frames)
        whole.wait()
        for group, following in pairwise(whole.groups()):
            point = group.snapshot
            assert point.consumed is not None
            assert point.answered is not None
            again = Stream(scheduler, model, point, chunk=2, lookahead=1)
            again.send(frames[point.consumed + 1 :], first=point.consumed + 1)
            again.wait()
            assert np.array_equal(again.frames(), whole.frames()[point.answered + 1 :])
            one, other = again.groups()[0].snapshot.state, following.snapshot.state
            assert one is other is None or (one is not None and other is not None and same_state(one, other))


def test_a_stream_cut_off_in_mid_chunk_stops_after_a_step(model: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the chunk begun ahead. Another stream goes on, and no thread stays."""
    begun, go, steps = threading.Event(), threading.Event(), 0
    add = Steps.add

    def slow(self: Steps, cost: float) -> None:
        nonlocal steps
        steps += 1
        if steps > 8:
            begun.set()
            assert go.wait(60)
        add(self, cost)

    frames = noise(60)
    with side_by_side() as scheduler:
        monkeypatch.setattr(Steps, "add", slow)
        cut = Stream(scheduler, model, chunk=20, lookahead=2)
        cut.send(frames)
        assert begun.wait(60)
        cut.close()
        go.set()
        wait_until(lambda: not cut.lane.working, 60, "the chunk of a closed stream goes on")
        assert steps < 16, "each strand takes one more step at most"
        other = Stream(scheduler, model, chunk=2, lookahead=1)
        other.send(frames[:5])
        other.wait()
        assert not cut.groups()
        assert len(other.frames()) == 5


def test_an_error_ends_its_stream_only(model: Upscaler) -> None:
    """The chunks before come out, and those behind are dropped."""
    with side_by_side() as scheduler:
        bad, good = (Stream(scheduler, model, chunk=2) for _ in range(2))
        bad.send([*noise(4), *noise(4, width=40)])
        good.send(noise(6))
        good.wait()
        wait_until(lambda: any(isinstance(each, Exception) for each in bad.outcomes), 60, "no error")
        wait_until(lambda: not bad.lane.working, 60, "the lane works on")
        assert len(bad.frames()) == 4
        assert len(good.frames()) == 6
        assert sum(isinstance(each, Exception) for each in bad.outcomes) == 1


# Order, with simulated work


class Simulated:
    """A task whose second half ends when the test says so."""

    def __init__(self, name: str, log: list[str], *, beside: bool = True, memory: int = 0) -> None:
        self.name, self.log, self.beside, self.memory = name, log, beside, memory
        self.batch_key, self.max_batch, self.places, self.seconds = None, 1, [0], 1.0
        self.done: Callable[[], None] = lambda: None
        self.alone = False

    def run(self, others: Sequence[Simulated]) -> None:
        self.log.append(f"run {self.name}")

    def begin(self, others: Sequence[Simulated], crew: Crew, place: Place) -> Sequence[Simulated]:
        self.log.append(f"begin {self.name}")
        self.alone = place.alone
        return [self]

    def finish(self, done: Callable[[], None]) -> None:
        self.done = done
        self.log.append(f"finish {self.name}")

    def end(self) -> list[bool]:
        self.log.append(f"end {self.name}")
        return [True]


class Desk:
    """Lanes by name, with tasks a1, a2, b1, …"""

    def __init__(self, scheduler: Scheduler, ahead: int = 1) -> None:
        self._scheduler, self._ahead = scheduler, ahead
        self.log: list[str] = []
        self.lanes: dict[str, Lane] = {}

    def put(self, name: str, **options: Any) -> Simulated:
        if name[0] not in self.lanes:
            self.lanes[name[0]] = self._scheduler.open_lane(self._ahead)
        task = Simulated(name, self.log, **options)
        self._scheduler.submit(self.lanes[name[0]], task)
        return task

    def logged(self, *lines: str) -> None:
        """Wait for these lines, the last ones of the log in any order, and for nothing more."""
        wait_until(lambda: sorted(self.log) == sorted(lines), 60, f"{lines} not in {self.log}")
        self.log.clear()

    def quiet(self) -> None:
        threading.Event().wait(0.05)
        assert self.log == []


def test_a_stream_begins_its_next_task_ahead_and_tasks_end_in_order() -> None:
    with side_by_side() as scheduler:
        desk = Desk(scheduler)
        a1, a2, _ = (desk.put(name) for name in ("a1", "a2", "a3"))
        desk.logged("begin a1", "finish a1", "begin a2")
        a1.done()
        desk.logged("end a1", "finish a2", "begin a3")
        a2.done()
        desk.logged("end a2", "finish a3")


def test_a_stream_that_comes_gets_a_place_beside_one_that_is_ahead() -> None:
    with side_by_side() as scheduler:
        desk = Desk(scheduler)
        a1, _, _ = (desk.put(name) for name in ("a1", "a2", "a3"))
        desk.logged("begin a1", "finish a1", "begin a2")
        b1 = desk.put("b1")
        desk.logged("begin b1", "finish b1")
        assert not b1.alone
        for name in ("b2", "c1"):  # two streams have both places
            desk.put(name)
        desk.quiet()
        b1.done()
        desk.logged("end b1", "begin c1", "finish c1")
        a1.done()
        desk.logged("end a1", "finish a2")


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_memory_bounds_what_runs_side_by_side(ahead: int) -> None:
    with side_by_side(room=lambda: 10) as scheduler:
        desk = Desk(scheduler, ahead)
        a1 = desk.put("a1", memory=20)  # one task may always run
        desk.logged("begin a1", "finish a1")
        assert a1.alone
        desk.put("a2", memory=6)
        b1 = desk.put("b1", memory=6)
        desk.quiet()
        a1.done()
        desk.logged("end a1", "begin b1", "finish b1")
        b1.done()
        desk.logged("end b1", "begin a2", "finish a2")


def test_a_task_that_runs_alone_waits_for_the_others_and_starves_nowhere() -> None:
    with side_by_side() as scheduler:
        desk = Desk(scheduler)
        a1 = desk.put("a1")
        desk.logged("begin a1", "finish a1")
        desk.put("b1", beside=False)
        desk.put("a2")
        desk.quiet()
        a1.done()
        desk.logged("end a1", "run b1", "begin a2", "finish a2")


def test_a_closed_stream_drops_what_has_not_reached_its_second_half() -> None:
    with side_by_side() as scheduler:
        desk = Desk(scheduler)
        a1, _, _ = (desk.put(name) for name in ("a1", "a2", "a3"))
        desk.logged("begin a1", "finish a1", "begin a2")
        scheduler.close_lane(desk.lanes["a"])
        desk.put("b1")
        desk.logged("begin b1", "finish b1")
        a1.done()
        desk.logged("end a1")
