"""Files of jobs in a storage."""

from __future__ import annotations

import asyncio

from jobs.stored import StoredFile


def content(file: StoredFile | None, first: int = 0, end: int | None = None) -> bytes:
    assert file is not None

    async def read() -> bytes:
        async with file.opened() as opened:
            return b"".join([block async for block in opened.blocks(first, opened.size if end is None else end)])

    return asyncio.run(read())
