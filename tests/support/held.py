"""`python -m tests.support.held worker|COMMAND…`: a worker, or a command, whose network waits in the middle of a chunk.

The network waits between two steps until somebody stops the run, so a test that stops the run cannot come too late.

Environment variables:
    HELD_CALLS: numbers of the network's calls in the process that wait, counted from 1: `1,3`.
    HELD: a file. The network appends a line to it when it begins to wait.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from model.engine.upscaler import ChunkResult, Upscaler

_forward = Upscaler.forward
_calls = 0


def _held(observer: Callable[[float], None]) -> Callable[[float], None]:
    def wait(fraction: float) -> None:
        observer(fraction)
        if fraction > 0.5:
            with open(os.environ["HELD"], "a") as file:
                file.write("held\n")
            while True:  # the observer raises Interrupted
                time.sleep(0.01)
                observer(fraction)

    return wait


def forward(self: Upscaler, frames: Any, state: Any, *, observer: Any = None, **options: Any) -> ChunkResult:
    global _calls
    if observer is not None:
        _calls += 1
        if str(_calls) in os.environ["HELD_CALLS"].split(","):
            observer = _held(observer)
    return _forward(self, frames, state, observer=observer, **options)


if __name__ == "__main__":
    Upscaler.forward = forward  # type: ignore[method-assign]
    if sys.argv[1] == "worker":
        from worker.main import main

        sys.exit(main())
    import cli

    sys.exit(cli.main(sys.argv[1:]))
