"""Child processes that never outlive their parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

_PR_SET_PDEATHSIG = 1


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a child in a process group of its own: a ^C in the terminal reaches the parent only, which stops its
    children in order. If the parent is killed, Linux sends the child SIGTERM. Call it from the main thread, whose end
    is what Linux takes for the parent's.
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
    """Ask a child to end, and make it end after `seconds`, with all that is in its process group.

    Returns whether it ended by itself.
    """
    willing = True
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            willing = False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return willing


def _die_with(parent: int) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be watched
            os._exit(1)

    return ask_kernel
