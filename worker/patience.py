"""Calls that wait for the bucket with the job files: an outage costs a job time, and no work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from jobs.errors import StorageUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 5.0


def patiently(call: Callable[[], T], *, stopped: Callable[[], bool], waiting: Callable[[], None] = lambda: None) -> T:
    """Repeat a call until the bucket answers.

    Args:
        call: the call, which may raise StorageUnavailable.
        stopped: whether there is a reason to wait no longer.
        waiting: called after each failure.

    Raises StorageUnavailable after a failure if `stopped`.
    """
    pause, failed = _FIRST_PAUSE, False
    while True:
        try:
            result = call()
        except StorageUnavailable as error:
            if not failed:
                log.warning("%s The worker waits for the bucket.", error)
            failed = True
            waiting()
            if _sleep(pause, stopped):
                raise
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            if failed:
                log.warning("the bucket is back")
            return result


def _sleep(seconds: float, stopped: Callable[[], bool]) -> bool:
    """Sleep; return True at once if there is a reason to stop."""
    until = time.monotonic() + seconds
    while not stopped():
        if time.monotonic() >= until:
            return False
        time.sleep(0.1)
    return True
