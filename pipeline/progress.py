"""Progress of a run, frame by frame: a frame of a chunk in work counts by its finished work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from jobs.schema import Progress

_ENCODING: Final = 0.1
"""Share of encoding in the work on a frame, before the first chunk is encoded."""


class ProgressCounter:
    """Progress of a run. The network's threads and the caller's thread report; the caller's thread reads.

    While the caller's thread encodes a chunk, the network's threads may compute that chunk and the next ones.

    Args:
        total: number of frames in the video, if known.
        done: number of frames done before the run.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, total: int | None, done: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._total, self._before, self._saved = total, done, done
        self._clock, self._created = clock, clock()
        self._most = done
        self._encoding = _ENCODING
        self._begun: float | None = None
        self._idle = 0.0
        self._lock = threading.Lock()
        """Guards the values that the network's threads change."""
        self._network: dict[int, tuple[int, float]] = {}
        """By number of a begun chunk that is not checkpointed: its frames, and the computed fraction."""
        self._number = 0
        self._computed_at = 0.0
        """Time of the last step that was not a measurement."""
        self._written = 0
        """Number of frames of the oldest chunk that are encoded."""

    # The network's threads

    def begin_chunk(self, frames: int) -> int:
        """The network begins a chunk that emits a number of frames. Returns the chunk's number."""
        with self._lock:
            self._number += 1
            self._network[self._number], self._computed_at = (frames, 0.0), self._clock()
            return self._number

    def compute(self, number: int, fraction: float) -> None:
        """A fraction of a chunk is computed."""
        with self._lock:
            now = self._clock()
            if self._begun is None:
                self._begun = now
            frames, before = self._network[number]
            if before < 1.0:
                self._computed_at = now
            self._network[number] = frames, fraction

    def end_chunk(self, number: int) -> None:
        """The network has returned a chunk. Time since the last step went into measurements, not into frames."""
        with self._lock:
            frames, _ = self._network[number]
            self._idle += self._clock() - self._computed_at
            self._computed_at = self._clock()
            self._network[number] = frames, 1.0

    def leave_out(self, number: int) -> None:
        """The frames of a chunk are not encoded."""
        with self._lock:
            del self._network[number]

    # The caller's thread

    def write(self, frames: int) -> None:
        """A number of the oldest chunk's frames is encoded."""
        self._written = frames

    def save(self, frames: int, *, encoding: float) -> None:
        """The oldest chunk is checkpointed, with a number of frames in all.

        `encoding` is the share of encoding in the work so far.
        """
        with self._lock:
            self._network.pop(min(self._network))
            self._saved, self._encoding, self._written = frames, encoding, 0

    def now(self) -> Progress:
        """Progress at this moment. The number of frames never falls."""
        position, fps = self._position(), self._fps()
        self._most = max(self._most, int(position))
        total = None if self._total is None else max(self._total, self._most)
        eta = max(0.0, total - position) / fps if fps and total is not None else None
        return Progress(frames_done=self._most, frames_saved=self._saved, frames_total=total, fps=fps, eta_seconds=eta)

    def at_checkpoint(self, *, complete: bool = False) -> Progress:
        """Progress without the frames in work; `complete` replaces an estimated total by the real one."""
        if not complete:
            return self.now().model_copy(update={"frames_done": self._saved})
        done, elapsed = self._saved, self._clock() - self._created
        fps = (done - self._before) / elapsed if done > self._before and elapsed > 0 else None
        eta = 0.0 if fps else None
        return Progress(frames_done=done, frames_saved=done, frames_total=done, fps=fps, eta_seconds=eta)

    def seconds_to_checkpoint(self) -> float | None:
        """Estimated seconds until the chunk in the network is checkpointed; None if unknown."""
        fps = self._fps()
        if not fps:
            return None
        with self._lock:
            begun = [self._network[number] for number in sorted(self._network)]
        unfinished = next((index for index, (_, fraction) in enumerate(begun) if fraction < 1.0), len(begun))
        due = begun[: unfinished + 1]  # later ones have begun, and their forward halves have not
        computed = sum(frames * fraction for frames, fraction in due)
        left = sum(frames for frames, _ in due) - computed * (1.0 - self._encoding) - self._written * self._encoding
        return max(0.0, left) / fps

    def _position(self) -> float:
        """Frames by the work done."""
        with self._lock:
            computed = sum(frames * fraction for frames, fraction in self._network.values())
        return self._saved + computed * (1.0 - self._encoding) + self._written * self._encoding

    def _fps(self) -> float | None:
        """Frames per second since the first step of the network."""
        done = self._position() - self._before
        elapsed = self._clock() - self._begun - self._idle if self._begun is not None else 0.0
        return done / elapsed if done > 0 and elapsed > 0 else None
