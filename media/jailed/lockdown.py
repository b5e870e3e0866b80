"""Privileges that the child process gives up before it opens a file.

On Linux: memory, CPU, system calls, files and network. On other systems: memory and CPU only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from media.jailed.landlock import restrict_files
from media.jailed.seccomp import filter_calls

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWNET, _CLONE_NEWUSER = 0x40000000, 0x10000000
_SYSTEM: Final = (
    "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom",
)  # fmt: skip
"""Files that shared libraries and Python may read after the lock-down."""
SYSTEM_CALLS: Final = "system calls"
FILES: Final = "files"


def limit_memory(size: int) -> None:
    """Limit this process permanently to an address space of `size` bytes."""
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def lock_down(*, reads: Iterable[Path] = (), writes: Path | None = None) -> tuple[str, ...]:
    """Limit this process permanently: no core dumps, few files, no other system calls, no other files, no network.

    Args:
        reads: the files that the process may read, beside the libraries of Python and of the system.
        writes: the only file that the process may write, too. The file must exist. None: no file.

    Returns:
        The layers that the kernel does not enforce, of `SYSTEM_CALLS` and `FILES`.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    if writes is None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform != "linux":
        return SYSTEM_CALLS, FILES
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Containers forbid new namespaces. The other layers refuse the network, too.
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    files = restrict_files(libc, readable=[*_libraries(), *reads], writable=writes)
    calls = filter_calls(libc)
    return tuple(name for name, enforced in ((SYSTEM_CALLS, calls), (FILES, files)) if not enforced)


def allow_cpu(seconds: float) -> None:
    """Allow this process `seconds` more of CPU time. Then the kernel kills the process (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _libraries() -> list[Path]:
    """Folders of code: Python's library, installed packages, this package, shared libraries of the system."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    python = f"{sys.base_prefix}/lib", os.path.dirname(os.__file__)  # noqa: PTH120  # pathlib would cost time
    return [Path(path) for path in (*_SYSTEM, *python, *packages)] + [Path(__file__).parents[1]]
