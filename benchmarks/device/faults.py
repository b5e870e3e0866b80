"""Faults of the device: out of memory, and an assertion that breaks the context of its process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.device.results import Section
from benchmarks.device.session import Item, Session
from model.errors import DeviceError
from model.faults import device_failure

_CHILD: Final = "from benchmarks.device.faults import broken_process; broken_process()"
_BROKEN: Final = 3
"""Exit status of a process in which the device is lost, as expected."""


def items(session: Session) -> Iterator[Item]:
    """Out of memory alone and in a batch, then the assertion, in a process of its own."""
    yield "out of memory", partial(_out_of_memory, session)
    yield "device assertion", partial(_assertion, session)


def _out_of_memory(session: Session, section: Section) -> None:
    """A forward pass without memory raises DeviceError; the state before stays valid, and the next pass is exact."""
    model, frames = session.upscaler(session.models[0], session.formats[0]), session.clip(4, session.check_size)
    before = model.forward(frames, None, lookahead=1, last=False).state
    expected = model.forward(frames, before, lookahead=1, last=False).frames
    try:
        _starve(session)
        section.check("out of memory", False, "the forward pass found memory")
    except DeviceError as error:
        section.check("out of memory", "ran out of memory" in str(error), str(error))
    finally:
        if session.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0, session.device)
            torch.cuda.empty_cache()
    found = model.forward(frames, before, lookahead=1, last=False).frames
    same = np.array_equal(found, expected)
    section.check("after out of memory", same, "equal bytes" if same else "other frames than before")


def _starve(session: Session) -> None:
    """Run a forward pass with too little memory. On a CPU an observer raises the error."""
    model = session.upscaler(session.models[0], session.formats[0])
    if not session.cuda:

        def observer(_: float) -> None:
            raise torch.OutOfMemoryError("forced")

        model.forward(session.clip(4, session.check_size), None, lookahead=0, last=True, observer=observer)
        return
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(session.device).total_memory
    allowed = torch.cuda.memory_allocated(session.device) + 48 * 2**20
    torch.cuda.set_per_process_memory_fraction(min(allowed / whole, 1.0), session.device)
    model.forward(session.clip(8, (1080, 1920)), None, lookahead=0, last=True)


def _assertion(session: Session, section: Section) -> None:
    """Trigger an assertion on the device in a child; there, later work fails, and this process goes on."""
    if not session.cuda:
        section.skip("device assertion", "needs a GPU")
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", _CHILD, str(session.device), str(int(session.tiny)), str(session.weights)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    said = [*done.stdout.strip().splitlines(), "nothing"][0][:150]
    section.check("device assertion", done.returncode == _BROKEN, f"exit {done.returncode}, said: {said}")
    frames = session.clip(2, session.check_size)
    result = session.upscaler(session.models[0], session.formats[0]).forward(frames, None, lookahead=0, last=True)
    section.check("after the assertion", len(result.frames) == 2, "this process goes on")


def broken_process() -> None:
    """Break the context of this process; exit with `_BROKEN` if the engine then reports a failed device."""
    device, tiny, weights = sys.argv[1:]
    session = Session(torch.device(device), bool(int(tiny)), Path(weights), 0.0)
    model, frames = session.upscaler(session.models[0], session.formats[0]), session.clip(2, session.check_size)
    model.forward(frames, None, lookahead=0, last=True)
    try:
        torch.zeros(4, device=session.device)[torch.tensor([9], device=session.device)].cpu()
    except RuntimeError as error:
        print(f"{type(error).__name__}: {error}".splitlines()[0], flush=True)
    try:
        model.forward(frames, None, lookahead=0, last=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}".splitlines()[0], flush=True)
        os._exit(_BROKEN if device_failure(error) else 1)  # the interpreter's end would touch the broken context
    os._exit(0)
