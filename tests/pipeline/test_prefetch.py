"""The thread that computes items ahead of their consumer."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline.prefetch import Abandoned, Prefetcher


def test_the_prefetcher_respects_its_depth() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            yield number

    with Prefetcher(items(), depth=1, name="t") as items_ahead:
        assert next(items_ahead) == 0
        assert next(items_ahead) == 1
        assert len(made) <= 3
        assert list(items_ahead) == list(range(2, 10))


def test_the_prefetcher_passes_exceptions_on_and_closes_its_source() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 1
            raise ValueError("broken")
        finally:
            closed.set()

    with Prefetcher(items(), depth=4, name="t") as items_ahead, pytest.raises(ValueError, match="broken"):
        list(items_ahead)
    assert closed.is_set()


def test_abandon_wakes_a_waiting_consumer() -> None:
    never = threading.Event()

    def items() -> Iterator[int]:
        never.wait(60)
        yield 1

    items_ahead = Prefetcher(items(), depth=1, name="t")
    with items_ahead:
        timer = threading.Timer(0.1, items_ahead.abandon)
        timer.start()
        with pytest.raises(Abandoned):
            next(items_ahead)
        never.set()
        timer.join()
