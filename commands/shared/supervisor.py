"""A tree of child processes: start, watch, restart with back-off, stop in order."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Final

from commands.shared.errors import CommandError
from commands.shared.processes import spawn, stop

_STEADY_SECONDS: Final = 60.0
"""Run time after which a child's count of failures starts again."""
STOP_MARGIN_SECONDS: Final = 5.0
"""Added to a worker's own grace period before the kill."""
POLL_SECONDS: Final = 0.2
"""Between two looks at the children."""
_MAX_FAILURES: Final = 3
"""Consecutive failures of a child before the service gives up; without limit once the service was ready."""
_MAX_DELAY_SECONDS: Final = 60.0

say = partial(print, flush=True)
"""Print a line for the person who started the service."""


@dataclass
class Child:
    """A process of the service."""

    name: str
    argv: Sequence[str]
    fds: Sequence[int] = ()
    without: frozenset[str] = frozenset()
    """Variables of the environment that the child does not get."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the environment."""
    restart: bool = False
    """Whether the child is restarted; the end of another child stops the service."""
    owned: bool = True
    """Whether the supervisor starts and stops the child, or only watches it."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    due: float = field(default=0.0, repr=False)
    """Monotonic time of the next start."""


class Interrupt:
    """Counts SIGINT and SIGTERM: the first stops in order, the second kills."""

    def __init__(self) -> None:
        self.count = 0
        self._event = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Sleep until the first signal, or for `seconds`. Returns whether a signal came."""
        return self._event.wait(seconds)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Count the signals, and suppress their default effect, during the `with` block."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._event.set()


class Supervisor:
    """Starts, watches, restarts and stops children."""

    def __init__(self, children: Sequence[Child], env: dict[str, str], stop_seconds: float) -> None:
        self.children = children
        self._env = env
        self._stop_seconds = stop_seconds
        self.was_ready = False
        """A service that was ready restarts children without limit: jobs kill them, not the installation."""

    def poll(self) -> None:
        """Start due children and handle ended ones. Raises CommandError if the service cannot continue."""
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                if child.due <= now:
                    env = {name: value for name, value in self._env.items() if name not in child.without}
                    child.process = spawn(child.argv, env={**env, **child.env}, pass_fds=child.fds)
                    child.started = now
            elif (status := child.process.poll()) is not None:
                stop(child.process, 0)  # kills the rest of the child's process group
                child.process = None
                self._ended(child, _outcome(status), now)

    @property
    def steady(self) -> bool:
        """Whether all children have run for a while."""
        now = time.monotonic()
        return all(child.process is not None and now - child.started > _STEADY_SECONDS for child in self.children)

    def stop(self, interrupt: Interrupt) -> None:
        """Terminate all owned children together, wait, then kill."""
        running = [child.process for child in self.children if child.owned and child.process is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + self._stop_seconds
        while any(process.poll() is None for process in running):
            if interrupt.count > 1 or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        for process in running:
            stop(process, 0)

    def _ended(self, child: Child, outcome: str, now: float) -> None:
        if not child.restart:
            raise CommandError(f"the {child.name} {outcome}; stopping")
        if now - child.started > _STEADY_SECONDS:
            child.failures = 0
        child.failures += 1
        if child.failures >= _MAX_FAILURES and not self.was_ready:
            raise CommandError(f"the {child.name} {outcome}, {child.failures} times in a row; stopping")
        delay = min(2.0 ** (child.failures - 1), _MAX_DELAY_SECONDS)
        child.due = now + delay
        say(f"the {child.name} {outcome}; restarting in {delay:.0f} s")


def _outcome(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
