"""An iterator that computes items in a thread, a bounded number ahead of the consumer."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Abandoned(Exception):
    """The consumer has closed the prefetcher and reads no more items."""


class _End:
    pass


class Prefetcher(Generic[T]):
    """Iterator over `items` that runs in a thread; a context manager. Exceptions of `items` reach the consumer.

    Args:
        items: the iterable to compute in the thread.
        depth: maximum number of items that are computed, or in work, and not taken yet. With depth 1, the thread
            computes the next item while the consumer processes the current one.
        name: name of the thread.
    """

    def __init__(self, items: Iterable[T], *, depth: int, name: str) -> None:
        self._items = items
        self._queue: SimpleQueue[T | _End | BaseException] = SimpleQueue()
        self._permits = threading.Semaphore(depth)
        self._closed = threading.Event()
        self._exhausted = False
        self._thread = threading.Thread(target=self._produce, name=name, daemon=True)

    def _produce(self) -> None:
        iterator = iter(self._items)
        try:
            while True:
                self._permits.acquire()
                if self._closed.is_set():
                    return
                self._queue.put(next(iterator))
        except StopIteration:
            self._queue.put(_End())
        except BaseException as error:  # any exception goes to the consumer
            self._queue.put(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self._take(None)

    def polled(self, seconds: float) -> Iterator[T | None]:
        """Yield the items, and None after each `seconds` without an item."""
        while True:
            try:
                yield self._take(seconds)
            except Empty:
                yield None
            except StopIteration:
                return

    def _take(self, seconds: float | None) -> T:
        if self._exhausted:
            raise StopIteration
        item = self._queue.get(timeout=seconds)
        if isinstance(item, _End):
            self._exhausted = True
            raise StopIteration
        if isinstance(item, BaseException):
            self._exhausted = True
            raise item
        self._permits.release()
        return item

    def abandon(self) -> None:
        """End the thread after its current item; a waiting consumer gets `Abandoned`. A second call does nothing."""
        if not self._closed.is_set():
            self._closed.set()
            self._permits.release()
            self._queue.put(Abandoned())

    def close(self) -> None:
        """Abandon the items, and wait for the end of the thread."""
        self.abandon()
        self._thread.join()
