"""The end of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

_AGAIN_SECONDS: Final = 1.0


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait for their end. A task's failure is no failure of the call.

    One request is not enough. In Python 3.11, `asyncio.wait_for` (and thus every command of redis.asyncio) loses a
    cancellation that comes at the moment at which the awaited operation ends: the task would go on for ever.
    """
    every = set(tasks)
    left = every
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_SECONDS)
    await asyncio.gather(*every, return_exceptions=True)
