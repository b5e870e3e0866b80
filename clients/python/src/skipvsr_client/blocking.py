"""Synchronous use of the asynchronous code.

The client's code is asynchronous, and does all input and output through `skipvsr_client.transport`. With
`BlockingTransport`, no `await` ever suspends. A single step therefore runs a coroutine to its end, without an event
loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

T = TypeVar("T")
P = ParamSpec("P")
Inner = TypeVar("Inner")
Held = TypeVar("Held", covariant=True)


class Facade(Protocol[Held]):
    """Offers the methods of an asynchronous object as synchronous methods."""

    @property
    def _inner(self) -> Held: ...


def run(coroutine: Awaitable[T]) -> T:
    """Run a coroutine that never suspends; return its result."""
    steps = cast("Coroutine[Any, Any, T]", coroutine)
    try:
        steps.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    steps.close()
    raise RuntimeError("a blocking call suspended")


def iterate(items: AsyncIterator[T]) -> Iterator[T]:
    """Iterate over an asynchronous iterator that never suspends."""
    try:
        while True:
            try:
                item = run(anext(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            run(close())


def blocking(
    method: Callable[Concatenate[Inner, P], Awaitable[T]],
) -> Callable[Concatenate[Facade[Inner], P], T]:
    """Return the synchronous method for an asynchronous method: same name, parameters and documentation."""

    def call(self: Facade[Inner], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(method(self._inner, *args, **kwargs))

    update_wrapper(call, method)
    return call


def blocking_iterator(
    method: Callable[Concatenate[Inner, P], AsyncIterator[T]],
) -> Callable[Concatenate[Facade[Inner], P], Iterator[T]]:
    """Return the synchronous generator method for an asynchronous generator method."""

    def call(self: Facade[Inner], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return iterate(method(self._inner, *args, **kwargs))

    update_wrapper(call, method)
    return call
