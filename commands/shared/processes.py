"""Child processes that never outlive their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

_PR_SET_PDEATHSIG = 1


def prepare_server() -> None:
    """Prepare this process for service: many connections, and files that only this user reads.

    The soft limit of open files becomes the hard limit, because each connection needs a file descriptor.
    """
    os.umask(0o077)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS refuses some values
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a child in its own process group; Linux sends the child SIGTERM if the parent is killed.

    A ^C in the terminal reaches only the parent. The parent then stops its children in order. Call this function from
    the main thread: Linux takes the end of the calling thread for the end of the parent.
    """
    return subprocess.Popen(  # noqa: S603 (our own commands)
        argv,
        env=dict(env) if env is not None else None,
        pass_fds=pass_fds,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=_die_with(os.getpid()),
    )


def stop(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Terminate a child, then kill its whole process group after `seconds`.

    Returns whether the child ended before the kill.
    """
    ended = True
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            ended = False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return ended


def _die_with(parent: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before prctl took effect
            os._exit(1)

    return ask_kernel
