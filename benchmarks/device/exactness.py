"""The engine's contracts on the device: chunks, batches, and states that survive a new process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.device.precision import psnr
from benchmarks.device.results import Section
from benchmarks.device.session import Item, Session
from model.engine.chunk import ChunkResult, Frames, Request
from model.engine.state import RecurrentState
from model.engine.upscaler import Upscaler

FRAMES: Final = 8
LEVELS: Final = {"fp32": 1, "bf16": 255, "fp16": 255}
"""Most levels of 255 between results that should be equal. On a GPU, a batch of two flows rounds unlike two batches."""
LEAST_DB: Final = 45.0
BATCH: Final = 4
_CHILD: Final = "from benchmarks.device.exactness import go_on; go_on()"


def items(session: Session) -> Iterator[Item]:
    """Chunks, batches and a new process, for each network and format."""
    pairs = [(name, number) for number in ("fp32", *session.formats) for name in session.models]
    for name, number in pairs:
        yield f"{name} {number} chunks", partial(_chunks, session, name, number)
        yield f"{name} {number} batch", partial(_batch, session, name, number)
    for name, number in pairs if not session.tiny else pairs[:1]:
        yield f"{name} {number} new process", partial(_new_process, session, name, number)


def _chunks(session: Session, name: str, number: str, section: Section) -> None:
    """Compare chunks of 1, 3 and 5 frames, which see the rest of the clip, with the whole clip."""
    model, frames = session.upscaler(name, number), session.clip(FRAMES, session.check_size)
    whole = model.forward(frames, None, lookahead=0, last=True).frames
    for size in (3,) if session.tiny else (1, 3, 5):
        _compare(section, f"{name} {number} chunks of {size}", number, _in_chunks(model, frames, size), whole)


def _in_chunks(model: Upscaler, frames: Frames, size: int) -> Frames:
    """Upscale a clip in chunks; each chunk sees all frames to the end."""
    state: RecurrentState | None = None
    given, results = frames, list[ChunkResult]()
    for done in range(0, len(frames), size):
        left = max(len(frames) - done - size, 0)
        result = model.forward(given, state, lookahead=left, last=left == 0)
        state, given = result.state, frames[:0]
        results.append(result)
    return _joined(results)


def _batch(session: Session, name: str, number: str, section: Section) -> None:
    """Compare streams in one batch with each stream alone."""
    model = session.upscaler(name, number)
    clips = [np.roll(session.clip(4, session.check_size), 7 * index, 2) for index in range(BATCH)]
    results = model.forward_many([Request(clip, None, 0, True) for clip in clips])
    together = []
    for result in results:
        if isinstance(result, Exception):
            raise result
        together.append(result)
    sizes = {result.batch_size for result in together}
    section.check(f"{name} {number} batch size", sizes == {BATCH}, f"{sorted(sizes)}, expected {BATCH}")
    alone = [model.forward(clip, None, lookahead=0, last=True) for clip in clips]
    _compare(section, f"{name} {number} batch of {BATCH}", number, _joined(together), _joined(alone))


def _joined(results: Sequence[ChunkResult]) -> Frames:
    return np.concatenate([result.frames for result in results]).astype(np.uint8, copy=False)


def _compare(section: Section, name: str, number: str, found: Frames, expected: Frames) -> None:
    if found.shape != expected.shape:
        section.check(name, False, f"shape {found.shape}, expected {expected.shape}")
        return
    difference = np.abs(found.astype(np.int32) - expected.astype(np.int32))
    share, largest, db = (difference > 0).mean().item(), difference.max().item(), psnr(found, expected)
    section.row(name, equal_bytes=largest == 0, share_different=share, levels=largest, db=db)
    limits = f"at most {LEVELS[number]} levels and at least {LEAST_DB:.0f} dB"
    section.check(name, largest <= LEVELS[number] and db >= LEAST_DB, f"{largest} levels, {db:.1f} dB; {limits}")


def _new_process(session: Session, name: str, number: str, section: Section) -> None:
    """Go on with a saved state in two new processes, and compare bytes with each other and with this process."""
    frames = session.clip(FRAMES, session.check_size)
    model = session.upscaler(name, number)
    first = model.forward(frames[:4], None, lookahead=2, last=False, routing="balanced")
    here = _digest(model.forward(frames[4:], first.state, lookahead=2, last=True, routing="balanced").frames)
    with tempfile.TemporaryDirectory() as folder:
        state, clip = Path(folder) / "state", Path(folder) / "clip.npy"
        first.state.save(state)
        np.save(clip, frames[4:])
        arguments = [str(session.device), str(int(session.tiny)), str(session.weights), name, number]
        there = [_child(session, [*arguments, str(state), str(clip)]) for _ in range(1 if session.tiny else 2)]
    equal = all(digest == here for digest in there)
    section.check(f"{name} {number} new process", equal, f"SHA-256 {here} here, {', '.join(there)} in new processes")


def _child(session: Session, arguments: Sequence[str]) -> str:
    """Run `go_on` in a new process; return its digest."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", _CHILD, *arguments]
    seconds = max(session.left(), 20) + 40
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["the new process gave no reason"])[-1])
    return done.stdout.strip().splitlines()[-1]


def go_on() -> None:
    """Go on with a state, and print the digest of the frames: what a new process runs."""
    import torch

    device, tiny, weights, name, number, state, clip = sys.argv[1:]
    if tiny == "1":
        torch.set_num_threads(1)
    session = Session(torch.device(device), bool(int(tiny)), Path(weights), 0.0)
    model = session.upscaler(name, number)
    before = RecurrentState.load(Path(state))
    result = model.forward(np.load(clip), before, lookahead=2, last=True, routing="balanced")
    print(_digest(result.frames))


def _digest(frames: Frames) -> str:
    return hashlib.sha256(frames.tobytes()).hexdigest()[:16]
