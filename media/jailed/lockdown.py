"""Privileges that the child process gives up before it opens a file.

On Linux: memory, CPU, network and writing. On other systems: memory and CPU only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # equal on all architectures
_FS_READ_RIGHTS, _FS_TRUNCATE, _FS_ALL_V1 = (1 << 2) | (1 << 3), 1 << 14, (1 << 13) - 1
_NET_TCP = 0b11  # bind and connect


def limit_memory(size: int) -> None:
    """Limit this process permanently to an address space of `size` bytes."""
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def lock_down(*, writes_below: Path | None) -> None:
    """Limit this process permanently: no core dumps, few files, no network, no writing.

    Args:
        writes_below: the only folder in which the process may create and write files. None: no folder.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    if writes_below is None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Old kernels and containers lack or forbid some of the following calls. Their failure is ignored.
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    _forbid_writing(libc, writes_below)


def allow_cpu(seconds: float) -> None:
    """Allow this process `seconds` more of CPU time. Then the kernel kills the process (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _forbid_writing(libc: ctypes.CDLL, writes_below: Path | None) -> None:
    """Forbid writing and TCP by Landlock, except for files below a folder."""
    abi = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        return
    writing = _FS_ALL_V1 & ~_FS_READ_RIGHTS & ~1  # all rights except reading files and folders, and executing
    if abi >= 3:
        writing |= _FS_TRUNCATE
    handled = (ctypes.c_uint64 * 2)(writing, _NET_TCP if abi >= 4 else 0)
    ruleset = libc.syscall(_LANDLOCK_CREATE, ctypes.byref(handled), 16 if abi >= 4 else 8, 0)
    if ruleset < 0:
        return
    if writes_below is not None:
        folder = os.open(writes_below, os.O_PATH | os.O_DIRECTORY)
        rule = bytes(ctypes.c_uint64(writing)) + bytes(ctypes.c_int32(folder))
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(folder)
    libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)
