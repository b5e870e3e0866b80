"""Fair scheduling of the device among streams. One thread runs all networks.

Fairness is measured in device time: among streams with waiting tasks, the stream with the least device time runs next.
An idle stream saves nothing up. It returns level with the others, except for a small credit.

Waiting tasks with the same batch key run as one batch and share its time. No task waits for a batch to fill.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

_CREDIT_SECONDS = 0.25
"""Device time that a returning stream may be behind: clients are idle for a moment between two answers."""


class Task(Protocol):
    """Work on the device. A task handles its own errors."""

    @property
    def batch_key(self) -> Hashable:
        """Batch key: equal for tasks able to share a batch; None for a task that must run alone."""

    @property
    def max_batch(self) -> int:
        """Maximum number of tasks in a batch."""

    def run(self, others: Sequence[Any]) -> None:
        """Run the task in a batch with `others` of the same batch key."""


@dataclass(eq=False)
class Lane:
    """A stream's queue. Its tasks run in order, one after the other."""

    tasks: deque[Task] = field(default_factory=deque)
    used: float = 0.0
    """Device time on the fair clock, in seconds."""


class Scheduler:
    """Runs the tasks of all lanes in its own thread. Thread-safe."""

    def __init__(
        self, on_start: Callable[[], None] | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Create a scheduler.

        Args:
            on_start: called first in the scheduler's thread.
            clock: seconds; measures the time of tasks.
        """
        self._lanes: set[Lane] = set()
        self._fair_clock = 0.0
        self._condition = threading.Condition()
        self._closed = False
        self._on_start = on_start
        self._now = clock
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.busy_seconds = 0.0
        """Total device time of all tasks."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def open_lane(self) -> Lane:
        """Create a stream's lane."""
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
                lane.used = max(lane.used, self._fair_clock - _CREDIT_SECONDS)
            lane.tasks.append(task)
            self._condition.notify()

    def close_lane(self, lane: Lane) -> None:
        """Drop a stream's waiting tasks. A running task finishes."""
        with self._condition:
            self._lanes.discard(lane)
            lane.tasks.clear()

    def close(self, seconds: float = 60.0) -> None:
        """Stop after the running task, and wait up to `seconds` for the thread to end."""
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
        while (batch := self._next()) is not None:
            lanes, (task, *others) = batch
            begun = self._now()
            task.run(others)
            del task, others, batch  # free their frames before waiting for the next task
            seconds = self._now() - begun
            with self._condition:
                self.busy_seconds += seconds
                for lane in lanes:
                    lane.used += seconds / len(lanes)

    def _next(self) -> tuple[list[Lane], list[Task]] | None:
        """Wait for tasks. Returns the lanes and tasks of the next batch, or None when closed."""
        with self._condition:
            while not self._closed:
                ready = sorted((lane for lane in self._lanes if lane.tasks), key=lambda lane: lane.used)
                if ready:
                    self._fair_clock = max(self._fair_clock, ready[0].used)
                    lanes = _batch(ready)
                    return lanes, [lane.tasks.popleft() for lane in lanes]
                self._condition.wait()
        return None


def _batch(ready: Sequence[Lane]) -> list[Lane]:
    """Return the first lane, and further lanes whose next task can share its batch."""
    task = ready[0].tasks[0]
    key = task.batch_key
    alike = [lane for lane in ready[1:] if key is not None and lane.tasks[0].batch_key == key]
    return [ready[0], *alike[: task.max_batch - 1]]
