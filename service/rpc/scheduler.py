"""Fair scheduling of the device among streams. One thread begins and ends all work on the networks.

Fairness is measured in device time: among streams with waiting tasks, the stream with the least device time runs next.
An idle stream saves nothing up. It returns level with the others, except for a small credit.

Waiting tasks with the same batch key run as a batch, and share the batch's time. No task waits for a batch to fill.

Where the cores of a CPU can share the work, tasks of several streams run side by side, and the next tasks of a stream
begin before the task in work is done. All other tasks run alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from model.engine.strands import Crew

_CREDIT_SECONDS = 0.25
"""Device time that a returning stream may be behind: clients are idle for a moment between two answers."""


class Place(NamedTuple):
    """Place of tasks among all others."""

    turn: int
    """Number in the order in which all tasks begin."""
    used: Callable[[], float]
    """Device time of the stream so far. The stream with the least comes first."""
    alone: bool
    """Whether no other task is in work, or waits."""


class Work(Protocol):
    """Tasks that run side by side with others, in two halves. One batch, or one task."""

    places: Sequence[int]
    """Places of the tasks among those that began together."""

    @property
    def seconds(self) -> float:
        """Device time so far."""

    def finish(self, done: Callable[[], None]) -> None:
        """Begin the second half: the tasks before of the same streams are done. Any thread may call `done`."""

    def end(self) -> list[bool]:
        """Hand over the outcome of each task. Returns whether the stream of each task can go on."""


class Task(Protocol):
    """Work on the device. A task handles its own errors."""

    @property
    def batch_key(self) -> Hashable:
        """Batch key: equal for tasks able to share a batch; None for a task that must run alone."""

    @property
    def max_batch(self) -> int:
        """Maximum number of tasks in a batch."""

    @property
    def beside(self) -> bool:
        """Whether the task can run side by side with others. If so, with `begin`, else with `run`."""

    @property
    def memory(self) -> int:
        """Bytes that the task takes while it runs."""

    def run(self, others: Sequence[Any]) -> None:
        """Run the task in a batch with `others` of the same batch key."""

    def begin(self, others: Sequence[Any], crew: Crew, place: Place) -> Sequence[Work]:
        """Begin the task, and `others` of the same batch key, on the threads of a crew."""


@dataclass(eq=False)
class Lane:
    """A stream's queue. Its tasks end in order."""

    ahead: int = 0
    """Most tasks to begin before the task in work is done."""
    tasks: deque[Task] = field(default_factory=deque)
    working: tuple[Working, ...] = ()
    """Unfinished work, oldest first. The threads of a crew read the tuple; the scheduler replaces it."""
    ended: float = 0.0
    """Device time of the tasks that are done, on the fair clock, in seconds."""

    @property
    def used(self) -> float:
        """Device time on the fair clock, in seconds."""
        return self.ended + sum(work.share for work in self.working)

    @property
    def full(self) -> bool:
        """Whether no further task may begin before a task in work is done."""
        return len(self.working) > self.ahead


@dataclass(eq=False)
class Working:
    """Work in its first or second half."""

    work: Work
    lanes: Sequence[Lane]
    memory: int
    finishing: bool = False
    done: bool = False

    @property
    def share(self) -> float:
        """Device time for each lane."""
        return self.work.seconds / len(self.lanes)

    @property
    def first(self) -> bool:
        """Whether the tasks before are done, in every lane."""
        return all(not lane.working or lane.working[0] is self for lane in self.lanes)


class Scheduler:
    """Runs the tasks of all lanes in its own thread. Thread-safe."""

    def __init__(
        self,
        on_start: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
        *,
        crew: Callable[[], Crew] | None = None,
        places: int = 1,
        room: Callable[[], int] | None = None,
    ) -> None:
        """Create a scheduler.

        Args:
            on_start: called first in the scheduler's thread.
            clock: seconds; measures the time of tasks.
            crew: makes the threads for tasks side by side; None: all tasks run alone.
            places: number of tasks, or lanes, to run side by side.
            room: bytes that all tasks together may take now; a single task may take more.
        """
        self._lanes: set[Lane] = set()
        self._fair_clock = 0.0
        self._condition = threading.Condition()
        self._closed = False
        self._on_start = on_start
        self._now = clock
        self._crew: Final = crew
        self.places = places
        """Number of tasks, or lanes, that run side by side."""
        self._room = room
        self._working: list[Working] = []
        self._turn = 0
        self._threads = ExitStack()
        """The crew while tasks run side by side. Idle threads of torch would slow down a task that runs alone."""
        self._hired: Crew | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.busy_seconds = 0.0
        """Total device time of all tasks."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def open_lane(self, ahead: int = 0) -> Lane:
        """Create a stream's lane. At most `ahead` of its tasks begin before the task in work is done."""
        lane = Lane(ahead)
        with self._condition:
            self._lanes.add(lane)
        return lane

    def submit(self, lane: Lane, task: Task) -> None:
        """Queue a task. Does nothing if the lane is closed."""
        with self._condition:
            if lane not in self._lanes:
                return
            if not lane.tasks:
                lane.ended += max(0.0, self._fair_clock - _CREDIT_SECONDS - lane.used)
            lane.tasks.append(task)
            self._condition.notify()

    def close_lane(self, lane: Lane) -> None:
        """Drop a stream's waiting tasks, and those in their first half. Other tasks in work finish."""
        with self._condition:
            self._lanes.discard(lane)
            lane.tasks.clear()
            self._condition.notify()

    def close(self, seconds: float = 60.0) -> None:
        """Stop after the task that runs alone, or after a step of the tasks in work.

        Waits up to `seconds` for the thread to end.
        """
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def waiting(self) -> int:
        """Number of waiting tasks."""
        with self._condition:
            return sum(len(lane.tasks) for lane in self._lanes)

    def _run(self) -> None:
        if self._on_start is not None:
            self._on_start()
        with self._threads:
            while (step := self._next()) is not None:
                step()
                del step  # free its frames before waiting for the next task

    def _next(self) -> Callable[[], None] | None:
        """Wait for something to do. Returns None when closed."""
        with self._condition:
            while not self._closed:
                if (step := self._step_of_work() or self._step_of_tasks()) is not None:
                    return step
                self._condition.wait()
        return None

    def _step_of_work(self) -> Callable[[], None] | None:
        """Return the next step for the chunks in work, if any."""
        for working in self._working:
            if working.done and working.first:
                return partial(self._end, working)
            if not working.finishing and not any(lane in self._lanes for lane in working.lanes):
                return partial(self._leave, working)
            if not working.finishing and working.first:
                return partial(self._finish, working)
        return None

    def _step_of_tasks(self) -> Callable[[], None] | None:
        """Return a function that begins the next tasks, or None without tasks or a place."""
        ready = sorted((lane for lane in self._lanes if lane.tasks), key=lambda lane: (len(lane.working), lane.used))
        lanes = _batch(ready)
        if not lanes or not self._has_place(lanes):
            return None
        busy = [*ready, *(lane for lane in self._lanes if lane.working)]
        self._fair_clock = max(self._fair_clock, min(lane.used for lane in busy))
        tasks = [lane.tasks.popleft() for lane in lanes]
        return partial(self._begin if self._beside(tasks[0]) else self._run_alone, lanes, tasks)

    def _has_place(self, lanes: Sequence[Lane]) -> bool:
        """Check whether the next tasks of lanes, a batch, can begin now."""
        lane = lanes[0]
        if not self._working:
            return True
        if not self._beside(lane.tasks[0]) or lane.full:
            return False
        memory = sum(each.memory for each in self._working) + sum(each.tasks[0].memory for each in lanes)
        if self._room is not None and memory > self._room():
            return False
        taken = len({id(other) for each in self._working for other in each.lanes})
        return len(self._working) < self.places or (not lane.working and taken < self.places)

    def _beside(self, task: Task) -> bool:
        return self._crew is not None and task.beside

    def _run_alone(self, lanes: Sequence[Lane], tasks: list[Task]) -> None:
        self._threads.close()
        self._hired = None
        begun = self._now()
        task, *others = tasks
        tasks.clear()
        task.run(others)
        del task, others
        self._count(lanes, self._now() - begun)

    def _begin(self, lanes: Sequence[Lane], tasks: list[Task]) -> None:
        """Begin a batch side by side with the chunks in work."""
        assert self._crew is not None
        if self._hired is None:
            self._hired = self._threads.enter_context(self._crew())
        self._turn += 1
        task, *others = tasks
        memory = sum(each.memory for each in tasks)
        place = Place(self._turn, lambda: min(lane.used for lane in lanes), not self._working and not self.waiting)
        found = task.begin(others, self._hired, place)
        with self._condition:
            for work in found:
                mine = [lanes[index] for index in work.places]
                working = Working(work, mine, memory * len(mine) // len(lanes))
                self._working.append(working)
                for lane in mine:
                    lane.working = (*lane.working, working)

    def _finish(self, working: Working) -> None:
        working.finishing = True
        working.work.finish(partial(self._done, working))

    def _done(self, working: Working) -> None:
        with self._condition:
            working.done = True
            self._condition.notify()

    def _end(self, working: Working) -> None:
        """Hand over the outcomes. If a stream cannot continue, its other tasks are dropped."""
        for lane, fine in zip(working.lanes, working.work.end(), strict=True):
            if not fine:
                self.close_lane(lane)
        self._leave(working)

    def _leave(self, working: Working) -> None:
        self._count(working.lanes, working.work.seconds)
        with self._condition:
            self._working.remove(working)
            for lane in working.lanes:
                lane.working = tuple(other for other in lane.working if other is not working)

    def _count(self, lanes: Sequence[Lane], seconds: float) -> None:
        with self._condition:
            self.busy_seconds += seconds
            for lane in lanes:
                lane.ended += seconds / len(lanes)


def _batch(ready: Sequence[Lane]) -> list[Lane]:
    """Return the first lane, and further lanes whose next task can share its batch; no lane if none is ready."""
    if not ready:
        return []
    task = ready[0].tasks[0]
    key = task.batch_key
    alike = [lane for lane in ready[1:] if key is not None and not lane.full and lane.tasks[0].batch_key == key]
    return [ready[0], *alike[: task.max_batch - 1]]
