"""`python -m tests.support.witness`: a real worker whose network records each chunk, and fails on request.

Environment variables:
    WITNESS: a file. Each call of the network appends `begin <digest of the frames>` and `end <digest>`.
    MISBEHAVE: `die` (SIGKILL), `exit`, `hang` or `raise` in a chunk; `device`: from a chunk on, the device fails; or
        `memory`: out of memory for chunks of more than 2 frames.
    MISBEHAVE_AT: number of the chunk in the process, counted from 1; 2 by default.
    MISBEHAVE_WHILE: a file. Without the file, the network does not misbehave.
    WAIT: a file with the digest of a chunk's frames. While the file exists, the network does not begin the chunk.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.engine.overlap import Group
from model.engine.upscaler import ChunkResult, Upscaler
from model.errors import DeviceError
from worker.main import main

dense = Upscaler.stream
calls = 0
held: weakref.ref[Any] | None = None


def misbehave(frames: int) -> None:
    global held
    how = os.environ.get("MISBEHAVE", "")
    if how == "memory" and held is not None and held() is not None:
        raise RuntimeError("the memory of the failed attempt is not freed")
    if how == "memory" and frames > 2:
        filled = np.empty(2**20)
        held = weakref.ref(filled)
        reason = torch.OutOfMemoryError("out of memory")
        raise DeviceError("cuda ran out of memory; use a smaller chunk or a smaller model") from reason
    at = int(os.environ.get("MISBEHAVE_AT", "2"))
    if not os.path.exists(os.environ.get("MISBEHAVE_WHILE", "/")):
        return
    if calls == at or (calls > at and how == "device"):
        fail(how)


def fail(how: str) -> None:
    if how == "device":
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nSearch for ...")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    elif how == "hang":
        time.sleep(3600)
    elif how == "raise":
        raise RuntimeError("an unexpected error")


def wait(digest: str) -> None:
    file = Path(os.environ.get("WAIT", "/nothing"))
    while file.exists() and file.read_text() == digest:
        time.sleep(0.01)


def note(line: str) -> None:
    with open(os.environ["WITNESS"], "ab") as file:
        file.write(f"{os.getpid()} {line}\n".encode())


def stream(self: Upscaler, groups: Iterable[Group], state: Any, **options: Any) -> Generator[ChunkResult]:
    begun: deque[str] = deque()

    def watched() -> Iterator[Group]:
        global calls
        for group in groups:
            calls += 1
            begun.append(hashlib.md5(group.frames.tobytes()).hexdigest()[:12])
            wait(begun[-1])
            note(f"begin {begun[-1]}")
            misbehave(len(group.frames))
            yield group
            del group

    with closing(dense(self, watched(), state, **options)) as results:
        for result in results:
            note(f"end {begun.popleft()}")
            yield result
            del result


if __name__ == "__main__":
    Upscaler.stream = stream  # type: ignore[method-assign]
    sys.exit(main())
