"""Blocking context managers in asynchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


@asynccontextmanager
async def in_threads(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a context manager that does blocking file operations in threads.

    What was entered is left, also if the call is cancelled twice: grpc cancels in this way, and a future cancelled
    before its thread begins would never run.
    """
    entering = asyncio.ensure_future(asyncio.to_thread(manager.__enter__))
    left: asyncio.Future[bool] | None = None

    async def leave(*error: Any) -> bool:
        await asyncio.wait([entering])
        return bool(entering.exception() is None and await asyncio.to_thread(manager.__exit__, *error))

    try:
        yield await asyncio.shield(entering)
    except BaseException as error:
        left = asyncio.ensure_future(leave(type(error), error, error.__traceback__))
        if not await asyncio.shield(left):
            raise
    finally:
        if left is None:
            await asyncio.shield(asyncio.ensure_future(leave(None, None, None)))
