"""^C: the first ^C stops the work in order, the second ^C ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

STATUS: Final = 130
"""Exit status of an interrupted command."""
_SHOW_CURSOR: Final = "\r\x1b[K\x1b[?25h"
"""For terminals: clears the line of a progress bar, and shows the cursor that the bar hides."""


@contextmanager
def twice_ends() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first ^C in the block, and end the process at the second."""
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            if sys.stderr.isatty():
                os.write(2, _SHOW_CURSOR.encode())
            os._exit(STATUS)
        raise KeyboardInterrupt

    if not _can_handle():
        yield
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stop_event(*, and_terminate: bool = False) -> Iterator[threading.Event]:
    """An event that ^C sets in the block, before KeyboardInterrupt is raised.

    With `and_terminate`, SIGTERM counts as a ^C: as process 1 of a container, the process would ignore it.
    """
    event = threading.Event()
    if not _can_handle():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        event.set()
        if callable(before):
            before(signal.SIGINT, frame)

    numbers = (signal.SIGINT, signal.SIGTERM) if and_terminate else (signal.SIGINT,)
    handlers = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _can_handle() -> bool:
    """Whether ^C is to be handled here: in the main thread, unless the process was started with ^C ignored."""
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None)
