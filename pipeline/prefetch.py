"""Running an iterator in a thread, a bounded number of items ahead of whoever consumes them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Abandoned(Exception):
    """The consumer has closed the stage; nobody wants more items."""


class _End:
    pass


class Ahead(Generic[T]):
    """Iterates over `items` in a thread of its own; a context manager.

    At most `depth` items are computed, or being computed, that have not been taken yet: with depth 1 the next item is
    made while the consumer works on the one before, and no further. An exception of the items reaches the consumer.
    """

    def __init__(self, items: Iterable[T], *, depth: int, name: str) -> None:
        self._items = items
        self._queue: SimpleQueue[T | _End | BaseException] = SimpleQueue()
        self._permits = threading.Semaphore(depth)
        self._closed = threading.Event()
        self._over = False
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
        except BaseException as error:  # the consumer gets it, whatever it is
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
        if self._over:
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, _End):
            self._over = True
            raise StopIteration
        if isinstance(item, BaseException):
            self._over = True
            raise item
        self._permits.release()
        return item

    def abandon(self) -> None:
        """Let the thread end after the item it is at; a consumer that waits gets `Abandoned`."""
        self._closed.set()
        self._permits.release()
        self._queue.put(Abandoned())

    def close(self) -> None:
        """Abandon, and wait until the thread has ended."""
        self.abandon()
        self._thread.join()
