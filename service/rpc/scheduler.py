"""One thread that runs the networks, and shares the device fairly among streams.

Fair means device time: of the lanes that have work, the one runs next that has had the least of it. A lane that had
nothing to do for a while does not save up: it comes back level with the others, but for a small credit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_CREDIT_SECONDS = 0.25
"""Device time that a lane may be behind when it comes back: between two answers a client is idle for a moment."""

Task = Callable[[], None]
"""Work on the device. It handles its own errors."""


@dataclass(eq=False)
class Lane:
    """A stream's place in the queue: its tasks run one after the other, in order, in the scheduler's thread."""

    tasks: deque[Task] = field(default_factory=deque)
    used: float = 0.0
    """Device time on the fair clock, in seconds."""


class Scheduler:
    """Runs the tasks of lanes. Its methods may be called from any thread."""

    def __init__(self, on_start: Task | None = None) -> None:
        self._lanes: set[Lane] = set()
        self._clock = 0.0
        self._condition = threading.Condition()
        self._closed = False
        self._on_start = on_start
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
            lane, task = chosen
            begun = time.perf_counter()
            task()
            del task, chosen  # with the frames that it holds
            seconds = time.perf_counter() - begun
            with self._condition:
                self.busy_seconds += seconds
                lane.used += seconds

    def _next(self) -> tuple[Lane, Task] | None:
        with self._condition:
            while not self._closed:
                ready = [lane for lane in self._lanes if lane.tasks]
                if ready:
                    lane = min(ready, key=lambda lane: lane.used)
                    self._clock = max(self._clock, lane.used)
                    return lane, lane.tasks.popleft()
                self._condition.wait()
        return None
