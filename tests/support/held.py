"""`python -m tests.support.held worker|COMMAND…`: a worker, or a command, whose network waits in the middle of a chunk.

The network waits between two steps until somebody stops the run, or a test releases the network. So a test that stops
the run cannot come too late.

Environment variables:
    HELD_CALLS: numbers of the chunks in the process in which the network waits, counted from 1: `1,3`.
    HELD: a file. The network appends a line to it when it begins to wait, and goes on if the file is removed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any

from model.engine.overlap import Group
from model.engine.upscaler import ChunkResult, Upscaler

_stream = Upscaler.stream
_chunks = 0


def _held(observer: Callable[[float], None]) -> Callable[[float], None]:
    begun = False

    def wait(fraction: float) -> None:
        nonlocal begun
        observer(fraction)
        if fraction > 0.5 and not begun:
            begun = True
            with open(os.environ["HELD"], "a") as file:
                file.write("held\n")
            while os.path.exists(os.environ["HELD"]):
                time.sleep(0.01)
                observer(fraction)  # raises Interrupted if somebody stops the run

    return wait


def _watched(groups: Iterable[Group]) -> Iterator[Group]:
    global _chunks
    for group in groups:
        _chunks += 1
        if group.observer is not None and str(_chunks) in os.environ["HELD_CALLS"].split(","):
            group = replace(group, observer=_held(group.observer))
        yield group


def stream(self: Upscaler, groups: Iterable[Group], state: Any, **options: Any) -> Generator[ChunkResult]:
    return _stream(self, _watched(groups), state, **options)


if __name__ == "__main__":
    Upscaler.stream = stream  # type: ignore[method-assign]
    if sys.argv[1] == "worker":
        from worker.main import main

        sys.exit(main())
    import cli

    sys.exit(cli.main(sys.argv[1:]))
