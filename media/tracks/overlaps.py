"""Subtitles for containers that show one text at a time: where cues overlap in time, a text has the lines of all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MOST: Final = 16
"""Cues that are shown together. Signs in ASS may be hundreds; of more than this nobody reads a line."""


@dataclass(frozen=True)
class Cue:
    """A text and when it is shown, in the track's units."""

    start: int
    end: int | None
    """None: until something else is shown."""
    text: str


class OneAtATime:
    """Cues in the order of their starts → cues of which each begins when the one before has ended, or later.

    A cue is held back until it is known where it ends or is joined by another: at the next one's start, or when the
    file is read past its end (`until`). What begins before what was already given out begins later for it.
    """

    def __init__(self) -> None:
        self._shown: list[Cue] = []
        self._at = 0

    def add(self, cue: Cue) -> Iterator[Cue]:
        """Take the next cue; what is now known."""
        yield from self.until(cue.start)
        if self._shown and self._at < cue.start:
            yield self._piece(cue.start)
        self._shown = [other for other in self._shown if other.end is not None or other.start == cue.start]
        if not self._shown:
            self._at = max(self._at, cue.start)
        if cue.text and (cue.end is None or cue.end > self._at):
            self._shown = [*self._shown[1 - _MOST :], cue]

    def until(self, time: int) -> Iterator[Cue]:
        """What is known once no more cues begin before `time`."""
        while ends := [cue.end for cue in self._shown if cue.end is not None and cue.end <= time]:
            yield self._piece(min(ends))

    def rest(self) -> Iterator[Cue]:
        """What is left when no more cues come."""
        while self._shown:
            yield self._piece(min((cue.end for cue in self._shown if cue.end is not None), default=None))

    def _piece(self, end: int | None) -> Cue:
        # Layers of one sign (its outline, its shadow) have the same words.
        piece = Cue(self._at, end, "\n".join(dict.fromkeys(cue.text for cue in self._shown)))
        if end is None:
            self._shown = []
        else:
            self._at = end
            self._shown = [cue for cue in self._shown if cue.end is None or cue.end > end]
        return piece
