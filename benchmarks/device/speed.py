"""Time of the engine: networks, sizes, number formats and routings, with launches and synchronisations a frame.

A call upscales a chunk in mid-stream: 8-bit frames in host memory become 8-bit frames in host memory. The clip has a
still background and a moving quarter. The time excludes decoding, encoding, and the engine's dense comparisons.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from statistics import median
from typing import Final

import numpy as np
import torch

from benchmarks.device.counting import Counts, counted
from benchmarks.device.results import Section
from benchmarks.device.session import Item, Session
from model.engine.chunk import ChunkResult, Frames
from model.engine.state import RecurrentState
from model.engine.upscaler import Upscaler

ROUTINGS: Final = ("off", "balanced", "fast")
CHUNK: Final = 8
"""Frames of a chunk, without look-ahead."""
TINY_CHUNK: Final = 3
LOOKAHEAD: Final = 2
MOST_ROUNDS: Final = 6


def items(session: Session) -> Iterator[Item]:
    """All combinations, the dense network in the device's first number format before the others."""
    formats = session.formats
    cells = list(product(ROUTINGS, formats, session.sizes, session.models))
    cells.sort(key=lambda cell: (cell[1] != formats[0], cell[0] != "off"))
    for routing, number, size, name in cells:
        h, w = size
        yield f"{name} {w}x{h} {number} {routing}", partial(_speed, session, name, size, number, routing)


def _speed(session: Session, name: str, size: tuple[int, int], number: str, routing: str, section: Section) -> None:
    chunk = TINY_CHUNK if session.tiny else CHUNK
    stream = Stream(session.upscaler(name, number), session.clip(chunk, size), routing)
    stream.start()
    if session.cuda:
        torch.cuda.reset_peak_memory_stats(session.device)
    end = time.monotonic() + min(1.5, max(session.left(), 0.0))
    times: list[float] = []
    while not times or (len(times) < (2 if session.tiny else MOST_ROUNDS) and time.monotonic() < end):
        times.append(stream.advance().seconds / chunk)
    counts = counted(session.device, stream.advance)
    memory = torch.cuda.max_memory_allocated(session.device) / 2**20 if session.cuda else None
    section.row(
        f"{name} {size[1]}x{size[0]} {number} {routing}",
        model=name,
        size=f"{size[1]}x{size[0]}",
        format=number,
        routing=routing,
        frames_per_second=1 / median(times),
        milliseconds=1000 * median(times),
        skipped=stream.skipped,
        **_each_frame(counts, chunk),
        peak_mib=memory,
    )


def _each_frame(counts: Counts, frames: int) -> dict[str, float | None]:
    """Return the counts of a chunk for each frame; the expected launches where the profiler saw none."""
    figures = {
        "launches": counts.expected or None if counts.launches is None else counts.launches,
        "expected_launches": counts.expected or None,
        "copies": counts.copies,
        "waits": counts.waits,
        "synchronisations": counts.synchronising,
    }
    return {name: None if value is None else value / frames for name, value in figures.items()}


class Stream:
    """A stream that repeats a clip forwards and backwards, one chunk a call, so that no scene cut occurs."""

    def __init__(self, model: Upscaler, clip: Frames, routing: str) -> None:
        self._model, self._clip, self._routing = model, clip, routing
        self._state: RecurrentState | None = None
        self.skipped = 0.0
        """Fraction of the units that the last chunk left out."""

    def start(self) -> None:
        """Fill the look-ahead, and run two chunks for warm-up."""
        first = np.concatenate([self._clip, self._clip[: -LOOKAHEAD - 1 : -1]]).astype(np.uint8, copy=False)
        self._state = self._forward(first).state
        self.advance()

    def advance(self) -> ChunkResult:
        """Upscale the next chunk; return its result."""
        self._clip = self._clip[::-1].copy()
        result = self._forward(self._clip)
        self._state = result.state
        total = sum(report.units_total for report in result.reports)
        self.skipped = sum(report.units_left_out for report in result.reports) / max(total, 1)
        return result

    def _forward(self, frames: Frames) -> ChunkResult:
        return self._model.forward(frames, self._state, lookahead=LOOKAHEAD, last=False, routing=self._routing)
