"""Rules for files (Landlock): the kernel refuses files that decoding does not need, to this process only.

`linux/landlock.h` defines the constants. Kernels since 5.13 have Landlock.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # equal on all architectures
_VERSION: Final = 1  # flag of _CREATE
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Version of Landlock → number of rights over files that the version knows."""
_TCP: Final = 0b11  # bind and connect
_SCOPES: Final = 0b11  # abstract Unix sockets and signals


def restrict_files(libc: ctypes.CDLL, *, readable: Iterable[Path], writable: Path | None) -> bool:
    """Refuse, permanently, all files but those named. Returns whether the kernel enforces the rules.

    The process must have given up new privileges (PR_SET_NO_NEW_PRIVS).

    Args:
        readable: files, and folders with everything below. A missing path is skipped.
        writable: the only file that the process may also write.
    """
    version = libc.syscall(_CREATE, None, 0, _VERSION)
    if version < 1:
        return False
    rights = (1 << _RIGHTS[min(version, 5)]) - 1
    handled = struct.pack("3Q", rights, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    ruleset = libc.syscall(_CREATE, handled, 24 if version >= 6 else 16 if version >= 4 else 8, 0)
    if ruleset < 0:
        return False
    for path in readable:
        _allow(libc, ruleset, path, _READ_FILE | _READ_DIR)
    if writable is not None:
        _allow(libc, ruleset, writable, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & rights)
    enforced = int(libc.syscall(_RESTRICT, ruleset, 0)) == 0
    os.close(ruleset)
    return enforced


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not stat.S_ISDIR(os.fstat(opened).st_mode):
        rights &= ~_READ_DIR
    libc.syscall(_ADD, ruleset, 1, struct.pack("=Qi", rights, opened), 0)
    os.close(opened)
