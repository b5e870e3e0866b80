"""Runs frame codecs without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from media.live.codecs import Coding, Format

T = TypeVar("T")


class CodecRunner:
    """Runs decoders and encoders in threads."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def run(self, coding: Coding, work: Callable[[], T]) -> T:
        """Return the result of `work`. RGB24 needs no conversion, and is handled at once in the caller's thread."""
        if coding.format is Format.RGB24:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
