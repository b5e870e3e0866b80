"""Helpers for tests with real processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

_DROP_FROM_BOUNDING_SET: Final = 24
"""PR_CAPBSET_DROP of `prctl`."""
_SYS_NICE: Final = 23
"""CAP_SYS_NICE: the right to real-time scheduling."""


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Process ids of all descendants of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found += [int(entry.parent.name), *children(int(entry.parent.name))]
    return found


def own_children() -> set[int]:
    """Process ids of the children of this process, zombies too."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


def title(pid: int) -> str:
    """A process's id and command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        words = []
    return f"{pid} {b' '.join(words).decode(errors='replace') or '(ended)'}"


def kill_tree(*pids: int) -> list[str]:
    """Kill processes and their descendants; return their titles."""
    tree = [each for pid in pids for each in (pid, *children(pid)) if alive(each)]
    titles = [title(each) for each in tree]
    for each in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return titles


def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait until a condition holds. Raises AssertionError with the text `otherwise` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def forbid_realtime() -> None:
    """Keep real-time scheduling from all programs that this process starts from now on.

    As root, Chromium gives some threads real-time priority. Threads that spin then occupy every core, and the ordinary
    thread for which they wait never runs: the whole machine stands still.
    """
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_DROP_FROM_BOUNDING_SET, _SYS_NICE, 0, 0, 0)
