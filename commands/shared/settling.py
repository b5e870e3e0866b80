"""Whether a file is complete: no program has it open for writing, and nothing has changed for a while."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import signal
import time
from pathlib import Path
from typing import Final

from commands.shared.ledger import Version

_UNFINISHED: Final = (".aria2", ".part", ".partial", ".crdownload", ".!qb", ".!ut", ".filepart", ".tmp")
"""Endings of files that download programs keep beside, or in place of, an unfinished file."""


class Settling:
    """Notices which files have come to rest.

    Args:
        seconds: time without a change.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._seen: dict[Path, tuple[Version, float]] = {}

    def is_settled(self, path: Path, version: Version) -> bool:
        """Whether a file is complete. Ask again later if not."""
        if _is_partial(path) or not self._at_rest(path, version) or has_writer(path):
            return False
        self._seen.pop(path, None)
        return True

    def _at_rest(self, path: Path, version: Version) -> bool:
        now = time.monotonic()
        before, since = self._seen.get(path, (None, now))
        if before != version:
            since = now
            self._seen[path] = version, since
        return now - since >= self.seconds or _age(path) >= self.seconds


def _age(path: Path) -> float:
    """Seconds since the last change of content or attributes, which no program can antedate."""
    try:
        return time.time() - path.stat().st_ctime
    except OSError:
        return 0.0


def _is_partial(path: Path) -> bool:
    """Whether a download program keeps a note of its own beside the file."""
    return any(path.with_name(path.name + ending).exists() for ending in _UNFINISHED)


def has_writer(path: Path) -> bool:
    """Whether a program of this machine has the file open for writing, as far as the kernel tells this user.

    The kernel refuses a lease for reading on such a file. Network drives, and files of other users, give no leases.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    with contextlib.suppress(OSError), path.open("rb") as file:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # sent to a holder whose lease is broken; ignored by default
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
