"""Merging of overlapping subtitle cues, for containers without overlapping cues."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MAX_CUES: Final = 16
"""Cues shown together. Signs in ASS can number hundreds, which nobody can read."""


@dataclass(frozen=True)
class Cue:
    """A text and its period, in units of the track's time base."""

    start: int
    end: int | None
    """None: until the next cue."""
    text: str


class CueMerger:
    """Filter from cues in the order of their starts to cues without overlap. A merged cue has the lines of its cues.

    A cue is complete at the start of the next cue, or when the file has been read past the cue's end (`until`). A cue
    with a start before the end of an emitted cue is shortened.
    """

    def __init__(self) -> None:
        self._shown: list[Cue] = []
        self._at = 0

    def add(self, cue: Cue) -> Iterator[Cue]:
        """Add the next cue, and yield complete cues."""
        yield from self.until(cue.start)
        if self._shown and self._at < cue.start:
            yield self._emit(cue.start)
        self._shown = [other for other in self._shown if other.end is not None or other.start == cue.start]
        if not self._shown:
            self._at = max(self._at, cue.start)
        if cue.text and (cue.end is None or cue.end > self._at):
            self._shown = [*self._shown[1 - _MAX_CUES :], cue]

    def until(self, time: int) -> Iterator[Cue]:
        """Yield the cues that are complete if no later cue starts before `time`."""
        while ends := [cue.end for cue in self._shown if cue.end is not None and cue.end <= time]:
            yield self._emit(min(ends))

    def flush(self) -> Iterator[Cue]:
        """Yield the remaining cues after the last one was added."""
        while self._shown:
            yield self._emit(min((cue.end for cue in self._shown if cue.end is not None), default=None))

    def _emit(self, end: int | None) -> Cue:
        # Layers of one sign (outline, shadow) have the same text, which is shown once.
        merged = Cue(self._at, end, "\n".join(dict.fromkeys(cue.text for cue in self._shown)))
        if end is None:
            self._shown = []
        else:
            self._at = end
            self._shown = [cue for cue in self._shown if cue.end is None or cue.end > end]
        return merged
