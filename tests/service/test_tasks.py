"""Tasks end, also if a cancellation gets lost."""

from __future__ import annotations

import asyncio

from service.tasks import end


def test_a_task_that_loses_a_cancellation_ends() -> None:
    lost: list[str] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost.append("one")

    async def run() -> None:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await asyncio.wait_for(end([task]), 60)
        assert task.cancelled()

    asyncio.run(run())
    assert lost == ["one"]


def test_tasks_that_have_ended_or_fail_are_no_failure() -> None:
    async def fail() -> None:
        raise ValueError

    async def run() -> None:
        done, failed = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(fail())
        await asyncio.sleep(0.01)
        await end([done, failed])
        await end([])

    asyncio.run(run())
