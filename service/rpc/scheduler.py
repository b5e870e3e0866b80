"""One thread that runs the networks, and shares the device fairly among streams.

Fair means device time: of the lanes that have work, the one runs next that has had the least of it. A lane that had
nothing to do for a while does not save up: it comes back level with the others, but for a small credit.

Lanes whose next task is of the same kind run theirs with it, as one batch, whose time they share: what waits anyway may
come along, but nothing is waited for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

_CREDIT_SECONDS = 0.25
"""Device time that a lane may be behind when it comes back: between two answers a client is idle for a moment."""


class Task(Protocol):
    """Work on the device. It handles its own errors."""

    @property
    def kind(self) -> Hashable:
        """Tasks of which this is equal can be run together; None: this one is run alone."""

    @property
    def most(self) -> int:
        """How many of its kind are run together, itself included."""

    def run(self, others: Sequence[Any]) -> None:
        """Run it, and others of its kind with it."""


@dataclass(eq=False)
class Lane:
    """A stream's place in the queue: its tasks run one after the other, in order, in the scheduler's thread."""

    tasks: deque[Task] = field(default_factory=deque)
    used: float = 0.0
    """Device time on the fair clock, in seconds."""


class Scheduler:
    """Runs the tasks of lanes. Its methods may be called from any thread."""

    def __init__(
        self, on_start: Callable[[], None] | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`on_start` is called in the scheduler's thread, first; `clock`, in seconds, tells what a task took."""
        self._lanes: set[Lane] = set()
        self._clock = 0.0
        self._condition = threading.Condition()
        self._closed = False
        self._on_start = on_start
        self._now = clock
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.busy_seconds = 0.0
        """Time in which the device worked, in all."""

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def open_lane(self) -> Lane:
        """A place for a stream."""
        lane = Lane()
        with self._condition:
            self._lanes.add(lane)
        return lane

    def submit(self, lane: Lane, task: Task) -> None:
        """Queue a task. Does nothing if the lane is closed."""
        with self._condition:
            if lane not in self._lanes:
                return
            if not lane.tasks:
                lane.used = max(lane.used, self._clock - _CREDIT_SECONDS)
            lane.tasks.append(task)
            self._condition.notify()

    def close_lane(self, lane: Lane) -> None:
        """Forget a stream's tasks; the one that runs is finished."""
        with self._condition:
            self._lanes.discard(lane)
            lane.tasks.clear()

    def close(self, seconds: float = 60.0) -> None:
        """Stop after the task that runs, and wait for that."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)

    @property
    def waiting(self) -> int:
        """Tasks that wait."""
        with self._condition:
            return sum(len(lane.tasks) for lane in self._lanes)

    def _run(self) -> None:
        if self._on_start is not None:
            self._on_start()
        while (chosen := self._next()) is not None:
            lanes, (task, *others) = chosen
            begun = self._now()
            task.run(others)
            del task, others, chosen  # with the frames that they hold
            seconds = self._now() - begun
            with self._condition:
                self.busy_seconds += seconds
                for lane in lanes:
                    lane.used += seconds / len(lanes)

    def _next(self) -> tuple[list[Lane], list[Task]] | None:
        with self._condition:
            while not self._closed:
                ready = sorted((lane for lane in self._lanes if lane.tasks), key=lambda lane: lane.used)
                if ready:
                    self._clock = max(self._clock, ready[0].used)
                    task = ready[0].tasks[0]
                    alike = [lane for lane in ready[1:] if task.kind is not None and lane.tasks[0].kind == task.kind]
                    lanes = [ready[0], *alike[: task.most - 1]]
                    return lanes, [lane.tasks.popleft() for lane in lanes]
                self._condition.wait()
        return None
