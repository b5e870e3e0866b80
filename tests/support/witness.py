"""`python -m witness`: the real worker, whose network writes down each chunk, and misbehaves where it is told to.

WITNESS names a file; each call of the network appends `begin <digest of its frames>` and `end <digest>`.
MISBEHAVE: `die` (SIGKILL), `exit`, `hang` or `raise` in the chunk that is number MISBEHAVE_AT of the process; `memory`:
the device's is too little whenever a chunk has more than 2 frames.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
import weakref
from typing import Any

import numpy as np
import torch

from model.engine.upscaler import ChunkResult, Upscaler
from model.errors import DeviceError
from worker.main import main

dense = Upscaler.forward
calls = 0
held: weakref.ref[Any] | None = None


def misbehave(frames: int) -> None:
    global held
    how = os.environ.get("MISBEHAVE", "")
    if how == "memory" and held is not None and held() is not None:
        raise RuntimeError("what the failed attempt had is still in memory")
    if how == "memory" and frames > 2:
        filled = np.empty(2**20)
        held = weakref.ref(filled)
        reason = torch.OutOfMemoryError("out of memory")
        raise DeviceError("cuda ran out of memory; use a smaller chunk or a smaller model") from reason
    if calls != int(os.environ.get("MISBEHAVE_AT", "2")):
        return
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit":
        os._exit(3)
    elif how == "hang":
        time.sleep(3600)
    elif how == "raise":
        raise RuntimeError("something nobody thought of")


def note(line: str) -> None:
    with open(os.environ["WITNESS"], "ab") as file:
        file.write(f"{os.getpid()} {line}\n".encode())


def forward(self: Upscaler, frames: Any, state: Any, **options: Any) -> ChunkResult:
    global calls
    calls += 1
    digest = hashlib.md5(frames.tobytes()).hexdigest()[:12]
    note(f"begin {digest}")
    misbehave(len(frames))
    result = dense(self, frames, state, **options)
    note(f"end {digest}")
    return result


if __name__ == "__main__":
    Upscaler.forward = forward  # type: ignore[method-assign]
    sys.exit(main())
