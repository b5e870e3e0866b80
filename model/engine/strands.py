"""Strands of steps, and their executors: the calling thread, or a crew of threads.

A strand is a part of a chunk's work (`model.engine.halves`). The calling thread runs one step after the other, each on
all cores. A crew runs strands side by side, each on some of the cores. A parallel operation of torch ends with its
slowest core, and a core that runs an encoder is slow; strands never wait for each other's cores.

The executor changes no result: a step reads nothing that another unfinished step writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from model.engine.clock import Clock, Seconds

T = TypeVar("T")
Condition = Callable[[], bool]
"""Whether a step can run. Once true, a condition stays true."""
Steps = Generator[Condition | None, None, T]
"""Yields after each step the condition of the next step, None for a step that can run at once; returns a value."""
Turn = tuple[int, int]
"""Place in the order of strands: number of the chunk, and place within the chunk. Earlier strands run first."""


class Fate:
    """What several strands share: the first error, which ends all strands, and the device time of their stream.

    Args:
        used: seconds of the stream so far. The strands of the stream with the least seconds run first.
        in_turn: whether the strands take turns instead of running side by side.
    """

    def __init__(self, used: Callable[[], float] = float, *, in_turn: bool = False) -> None:
        self.error: BaseException | None = None
        self.used, self.in_turn = used, in_turn


class Strand(Generic[T]):
    """Steps that run one after the other.

    Args:
        steps: the steps.
        spent: receives the time of the steps.
        turn: place among the other strands.
        fate: shared with the strands for which the steps wait.
        after: the strands to finish before.
        heavy: whether a crew gives half of its cores to the steps.
        condition: the condition of the first step.
    """

    def __init__(
        self,
        steps: Steps[T],
        spent: Seconds,
        turn: Turn,
        fate: Fate,
        after: Sequence[Strand[Any]] = (),
        *,
        heavy: bool = False,
        condition: Condition | None = None,
    ) -> None:
        self.spent, self.turn, self.heavy = spent, turn, heavy
        self.done = False
        self._fate, self._after = fate, tuple(after)
        self._condition = condition
        self._steps: Steps[T] | None = steps
        self._value: T
        self._error: BaseException | None = None

    @property
    def order(self) -> tuple[float, Turn]:
        """The strand with the least order runs first."""
        return self._fate.used(), self.turn

    @property
    def ready(self) -> bool:
        """Whether the next step can run."""
        if self._fate.error is not None:
            return True
        return all(strand.done for strand in self._after) and (self._condition is None or self._condition())

    def can_run_beside(self, others: Iterable[Strand[Any]]) -> bool:
        """Check that no other strand shares a fate whose strands take turns."""
        return not self._fate.in_turn or all(other._fate is not self._fate for other in others)

    @property
    def value(self) -> T:
        """The value of a finished strand. Raises the strand's error."""
        if self._error is not None:
            raise self._error
        return self._value

    def step(self) -> None:
        """Run the next step."""
        self._after = ()  # a finished strand holds its value
        steps, self._error = self._steps, self._fate.error
        assert steps is not None
        try:
            if self._error is None:
                self._condition = next(steps)
                return
            steps.close()
        except StopIteration as end:
            self._value = end.value
        except BaseException as error:  # any error belongs to the thread that waits
            self._error = self._fate.error = error
        self._steps = self._condition = None
        self.done = True


def single(function: Callable[[], T]) -> Steps[T]:
    """Return a function as one step."""
    yield from ()
    return function()


def conditioned(steps: Generator[None, None, T], conditions: Iterable[Condition]) -> Steps[T]:
    """Run one step after each condition, then the rest at once."""
    try:
        for condition in conditions:
            yield condition
            next(steps)
        while True:
            next(steps)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


class Executor(Protocol):
    """Runs strands."""

    def start(self, *strands: Strand[Any]) -> None:
        """Take strands."""

    def wait(self, strand: Strand[T]) -> T:
        """Return the value of a strand. Raises the strand's error."""

    def measured(self, spent: Seconds) -> AbstractContextManager[None]:
        """Add the time of the calling thread inside this context to `spent`."""


class Inline:
    """Runs strands in the calling thread, while it waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._strands: list[Strand[Any]] = []
        """Unfinished strands."""

    def start(self, *strands: Strand[Any]) -> None:
        """Take strands."""
        self._strands += strands

    @torch.inference_mode()
    def wait(self, strand: Strand[T]) -> T:
        """Return the value of a strand. Raises the strand's error."""
        while not strand.done:
            first = _in_turn(self._strands)[0]
            with self.measured(first.spent):
                first.step()
            if first.done:
                self._strands.remove(first)
        return strand.value

    @contextmanager
    def measured(self, spent: Seconds) -> Iterator[None]:
        """Add the time of the calling thread inside this context to `spent`."""
        begun = self._clock.both()
        try:
            yield
        finally:
            spent += (self._clock.both() - begun) * (1, self._clock.threads())


def _in_turn(strands: Iterable[Strand[Any]]) -> list[Strand[Any]]:
    """Return the strands whose next step can run, in their order."""
    return sorted((strand for strand in strands if strand.ready), key=lambda strand: strand.order)


def beside(threads: int) -> int:
    """Return the number of light strands that a crew with `threads` threads runs beside a heavy one."""
    return threads - threads // 2


def share(threads: int, heavy: int, light: int, *, of_heavy: bool) -> int:
    """Return the number of threads for a step, given the numbers of heavy and light strands that can run.

    Heavy strands share half of the threads, and light ones the rest. A step alone gets all.
    """
    if of_heavy:
        return max(1, (threads // 2 if light else threads) // heavy)
    left = beside(threads) if heavy else threads
    return max(1, left // min(light, beside(threads) + 1))


class Crew:
    """Threads that run strands step by step; a context manager.

    Each worker runs a single step at a time, on its `share` of the cores; a lone strand runs on all. At the end,
    running steps finish and all others are dropped. Inside the context, torch has one thread in the calling thread.

    While n steps run, each step adds an n-th of the wall-clock time to its strand's `spent`. The sum over all strands
    is the time during which at least one step ran.

    Args:
        threads: number of torch's threads in all, at least 2.
        clock: measures the steps.
    """

    def __init__(self, threads: int, clock: Clock) -> None:
        self._threads, self._clock = threads, clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        """Notified when a strand starts, after each step, and at the end."""
        self._strands: list[Strand[Any]] = []
        """Unfinished strands."""
        self._busy: list[Strand[Any]] = []
        """Strands that run a step."""
        self._running: list[Seconds] = []
        """`spent` of each running step, and of measured threads."""
        self._counted = 0.0
        """Wall-clock time up to which `_running` is accounted for."""
        self._closed = False
        self._before = 1
        workers = 1 + beside(threads)
        self._begun = threading.Barrier(workers + 1)
        self._workers = [
            threading.Thread(target=self._work, args=(number,), name=f"model-{number}", daemon=True)
            for number in range(workers)
        ]

    def __enter__(self) -> Self:
        self._before = torch.get_num_threads()
        for worker in self._workers:
            worker.start()
        self._begun.wait()
        torch.set_num_threads(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()
        self._strands.clear()
        torch.set_num_threads(self._before)  # last: a thread new to torch gets the number that was set last

    def start(self, *strands: Strand[Any]) -> None:
        """Take strands."""
        with self._lock:
            self._strands += strands
            self._changed.notify_all()

    def wait(self, strand: Strand[T]) -> T:
        """Return the value of a strand. Raises the strand's error."""
        with self._lock:
            while not strand.done:
                self._changed.wait()
        return strand.value

    @contextmanager
    def measured(self, spent: Seconds) -> Iterator[None]:
        """Add the time of the calling thread inside this context to `spent`."""
        with self._lock:
            begun = self._begin(spent)
        try:
            yield
        finally:
            with self._lock:
                self._end(spent, begun)

    @torch.inference_mode()
    def _work(self, number: int) -> None:
        torch.set_num_threads(self._threads)
        self._begun.wait()
        with self._lock:
            while not self._closed:
                strand = self._next(first=number == 0)
                if strand is None:
                    self._changed.wait()
                else:
                    self._run(strand)
                    del strand

    def _next(self, *, first: bool) -> Strand[Any] | None:
        """Return the strand of the next step for the first or another worker."""
        ready = self._ready()
        return ready[0] if ready and (first or self._busy or len(ready) > 1) else None

    def _ready(self) -> list[Strand[Any]]:
        free = (strand for strand in self._strands if strand not in self._busy)
        return _in_turn(strand for strand in free if strand.can_run_beside(self._busy))

    def _run(self, strand: Strand[Any]) -> None:
        """Run a step; the lock is free meanwhile."""
        self._busy.append(strand)
        able = [*self._busy, *self._ready()]
        heavy = sum(each.heavy for each in able)
        torch.set_num_threads(share(self._threads, heavy, len(able) - heavy, of_heavy=strand.heavy))
        begun = self._begin(strand.spent)
        self._lock.release()
        try:
            strand.step()
        finally:
            self._lock.acquire()
            self._end(strand.spent, begun)
            self._busy.remove(strand)
        if strand.done:
            self._strands.remove(strand)
        self._changed.notify_all()

    def _begin(self, spent: Seconds) -> float:
        self._count()
        self._running.append(spent)
        return self._clock.computing()

    def _end(self, spent: Seconds, begun: float) -> None:
        self._count()
        del self._running[next(index for index, running in enumerate(self._running) if running is spent)]
        spent[1] += (self._clock.computing() - begun) * self._clock.threads()

    def _count(self) -> None:
        """Share the wall-clock time since the last call among the running steps."""
        now = time.perf_counter()
        for spent in self._running:
            spent[0] += (now - self._counted) / len(self._running)
        self._counted = now
