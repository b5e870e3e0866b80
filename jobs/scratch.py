"""Scratch folders of a machine that keeps its job files in a bucket: one for each job that a worker has."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from jobs.disk import room
from jobs.stored import LocalEntry

_LOCK: Final = ".lock"


class ScratchLocks:
    """The folders that workers of this process use. The janitor leaves a locked folder alone."""

    def __init__(self) -> None:
        self._locks: dict[Path, int] = {}

    def enter(self, folder: Path) -> None:
        """Create and lock a folder until `leave`, or the end of the process."""
        with room(folder.parent):
            while folder not in self._locks:
                folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # the janitor has just removed the folder
                    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                    fcntl.flock(lock, fcntl.LOCK_SH)
                    if _is_at(folder / _LOCK, lock):
                        self._locks[folder] = lock
                    else:
                        os.close(lock)

    def leave(self, folder: Path) -> None:
        """Unlock a folder."""
        lock = self._locks.pop(folder, None)
        if lock is not None:
            os.close(lock)


class ScratchEntry(LocalEntry):
    """The scratch folder of a job, which counts as abandoned once no worker of this machine uses the folder."""

    def changed(self) -> float:
        """Newest modification time; now while a worker uses the folder."""
        with self._unused() as unused:
            return super().changed() if unused else time.time()

    def remove(self) -> None:
        """Remove the folder, unless a worker has just begun to use the folder."""
        removed = self.path.with_name(f".removed-{self.path.name}-{secrets.token_hex(4)}")
        with self._unused() as unused, suppress(OSError):
            if unused:
                self.path.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)

    @contextmanager
    def _unused(self) -> Iterator[bool]:
        """Keep workers out of the folder during the block; False if a worker uses the folder."""
        try:
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            yield True
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unused = True
        except BlockingIOError:
            unused = False
        try:
            yield unused
        finally:
            os.close(lock)


def _is_at(path: Path, file: int) -> bool:
    """Whether an open file still has this path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(file))
    return False
