"""A run of the tests that ends: whatever hangs is named with the stacks of all threads, and killed.

pytest-timeout raises an exception in the test. The exception cannot end a wait in C code, a second wait in the test's
clean-up, nor a wait between tests. Each of the three limits here ends the process:

- A test has `GRACE` seconds more than pytest-timeout gives it, and the clean-up of its fixtures as many.
- The end of a process, with its threads and exit handlers, has `EXIT` seconds.
- With pytest-xdist: if no test starts or ends for longer than that, the controller kills its workers and itself.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from tests.support.processes import kill_tree, own_children

GRACE = 90.0
"""Seconds for a test after pytest-timeout's exception, and for the clean-up of its fixtures."""
EXIT = 60.0
"""Seconds for the end of a process."""


class Watchdog:
    """Ends a process whose test, or whose end, takes too long. Prints the stacks to the process's real stderr."""

    def __init__(self, stderr: int) -> None:
        self._stderr = stderr
        self._armed = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            self._armed = False
            faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(tryfirst=True)
    def pytest_timeout_set_timer(self, settings: Any) -> None:
        """pytest-timeout starts its clock for a test."""
        self._armed = True
        self._end_in(settings.timeout + GRACE)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self) -> None:
        """Start again: pytest's faulthandler plug-in stops the clock at an exception."""
        if self._armed:
            self._end_in(GRACE)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        if not hasattr(config, "workerinput"):  # a worker of pytest-xdist waits for the others, and is then killed
            self._end_in(EXIT)

    def _end_in(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=self._stderr)


class Controller:
    """Watches the workers of pytest-xdist from outside: a worker may hang where its own watchdog does not look."""

    def __init__(self, stderr: int, limit: float) -> None:
        self._stderr, self._limit = stderr, limit
        self._running: dict[str, float] = {}
        self._heard = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def pytest_sessionstart(self) -> None:
        self._thread.start()

    def pytest_xdist_node_collection_finished(self) -> None:
        self._heard = time.monotonic()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._heard = self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)
        self._heard = time.monotonic()

    def pytest_unconfigure(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1):
            if time.monotonic() - self._heard > self._limit:
                self._end()

    def _end(self) -> None:
        """Name what runs, let each worker print its stacks, and end all."""
        now = time.monotonic()
        running = [f"  {name}, for {now - since:.0f} s" for name, since in list(self._running.items())]
        self._say(f"\nNo test has started or ended for {self._limit:.0f} s. In work:", *(running or ["  no test"]))
        for pid in own_children():
            self._say(f"Stacks of process {pid}:")
            os.kill(pid, signal.SIGUSR1)
            time.sleep(1)
            self._say(*(f"  killed: {line}" for line in kill_tree(pid)))
        os._exit(pytest.ExitCode.INTERNAL_ERROR)

    def _say(self, *lines: str) -> None:
        for line in lines:
            os.write(self._stderr, f"{line}\n".encode())


def install(config: pytest.Config) -> None:
    """Start the watchdogs of this process: a test process, or the controller of several."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        stderr = os.dup(sys.__stderr__.fileno())
    faulthandler.register(signal.SIGUSR1, file=stderr)
    config.pluginmanager.register(Watchdog(stderr))
    if config.getoption("numprocesses", None):
        limit = (config.getoption("timeout") or float(config.getini("timeout"))) + 2 * GRACE + EXIT
        config.pluginmanager.register(Controller(stderr, limit))
