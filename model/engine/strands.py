"""Strands of steps, and their executors: the calling thread, or a crew of two threads.

A strand is one half of a chunk (`model.engine.halves`). The calling thread runs a strand in one go, each step on all
cores. A crew runs two strands side by side, each step on half of the cores. A parallel operation of torch ends with its
slowest core, and a core that runs an encoder is slow; the two strands never wait for each other's cores.

The executor changes no result: a strand reads nothing that another unfinished strand writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

import torch

from model.engine.clock import Clock, Seconds

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Yields after each step, and returns a value."""
_WORKERS: Final = 2
"""The forward branch is one chain through all chunks and takes about half of the work: a third strand would wait."""


class Strand(Generic[T]):
    """Steps that run one after the other.

    Args:
        steps: the steps.
        spent: receives the time of the steps.
        after: the strand to finish before. If that fails, this strand fails with the same error.
    """

    def __init__(self, steps: Steps[T], spent: Seconds, after: Strand[Any] | None = None) -> None:
        self.spent, self._after = spent, after
        self.done = False
        self._steps: Steps[T] | None = steps
        self._value: T
        self._error: BaseException | None = None

    @property
    def ready(self) -> bool:
        """Whether the next step can run."""
        return self._after is None or self._after.done

    @property
    def value(self) -> T:
        """The value of a finished strand. Raises the strand's error."""
        if self._error is not None:
            raise self._error
        return self._value

    def step(self) -> bool:
        """Run the next step. Returns whether the strand is finished."""
        if self._after is not None:
            self._error, self._after = self._after._error, None
        steps = self._steps
        assert steps is not None
        try:
            if self._error is None:
                next(steps)
                return False
            steps.close()
        except StopIteration as end:
            self._value = end.value
        except BaseException as error:  # any error belongs to the thread that waits
            self._error = error
        self._steps = None
        self.done = True
        return True


def single(function: Callable[[], T]) -> Steps[T]:
    """Return a function as one step."""
    yield from ()
    return function()


class Executor(Protocol):
    """Runs strands."""

    def start(self, strand: Strand[Any]) -> None:
        """Take a strand. Strands begin in the order of these calls."""

    def wait(self, strand: Strand[T]) -> T:
        """Return the value of a strand. Raises the strand's error."""

    def measured(self, spent: Seconds) -> AbstractContextManager[None]:
        """Add the time of the calling thread inside this context to `spent`."""


class Inline:
    """Runs strands in the calling thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def start(self, strand: Strand[Any]) -> None:
        """Run a strand. Raises the strand's error."""
        done = False
        while not done:
            with self.measured(strand.spent):
                done = strand.step()
        _ = strand.value

    def wait(self, strand: Strand[T]) -> T:
        """Return the value of a strand."""
        return strand.value

    @contextmanager
    def measured(self, spent: Seconds) -> Iterator[None]:
        """Add the time of the calling thread inside this context to `spent`."""
        begun = self._clock.both()
        try:
            yield
        finally:
            spent += (self._clock.both() - begun) * (1, self._clock.threads())


class Crew:
    """Two threads that run strands step by step; a context manager.

    The first worker runs a lone strand on all cores. While two strands are ready, both workers run one step each, on
    half of the cores. At the end, running steps finish and all others are dropped. Inside the context, torch has one
    thread in the calling thread.

    While n steps run, each of them adds an n-th of the wall-clock time to its `spent`. The sum over all strands is the
    time during which at least one step ran.

    Args:
        threads: number of torch's threads for a lone strand, at least 2.
        clock: measures the steps.
    """

    def __init__(self, threads: int, clock: Clock) -> None:
        self._threads, self._clock = threads, clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        """Notified when a strand starts, after each step, and at the end."""
        self._strands: list[Strand[Any]] = []
        """Unfinished strands, the oldest first."""
        self._busy: list[Strand[Any]] = []
        """Strands that run a step."""
        self._running: list[Seconds] = []
        """`spent` of each running step, and of measured threads."""
        self._counted = 0.0
        """Wall-clock time up to which `_running` is accounted for."""
        self._closed = False
        self._before = 1
        self._begun = threading.Barrier(_WORKERS + 1)
        self._workers = [
            threading.Thread(target=self._work, args=(number,), name=f"model-{number}", daemon=True)
            for number in range(_WORKERS)
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

    def start(self, strand: Strand[Any]) -> None:
        """Take a strand. Strands begin in the order of these calls."""
        with self._lock:
            self._strands.append(strand)
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
        """Return the strand of the next step for the first or the second worker."""
        ready = self._ready()
        return ready[0] if ready and (first or self._busy or len(ready) > 1) else None

    def _ready(self) -> list[Strand[Any]]:
        return [strand for strand in self._strands if strand.ready and strand not in self._busy]

    def _run(self, strand: Strand[Any]) -> None:
        """Run a step; the lock is free meanwhile."""
        alone = not self._busy and len(self._ready()) == 1
        torch.set_num_threads(self._threads if alone else self._threads // _WORKERS)
        self._busy.append(strand)
        begun = self._begin(strand.spent)
        self._lock.release()
        try:
            done = strand.step()
        finally:
            self._lock.acquire()
            self._end(strand.spent, begun)
            self._busy.remove(strand)
        if done:
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
