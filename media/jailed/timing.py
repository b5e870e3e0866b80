"""Times of all frames of a job, collected from the segments before the result is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, NamedTuple

from media.demux.timestamps import reorder_depth

_REMEMBERED: Final = 256
"""Latest times. No encoder reorders frames over a longer distance."""
_FINEST: Final = 10_000
"""Largest number of finer units in a unit."""


class End(NamedTuple):
    """The end of the result's picture."""

    finer: int
    """Number of the result's units in a unit of the spec's time base."""
    last_duration: int
    """Duration of the last frame, in the result's units."""
    rate: Fraction
    """Average frames a second."""


@dataclass
class Timing:
    """Times of all frames, in units of the spec's time base."""

    frame_rate: Fraction
    """Nominal rate."""
    time_base: Fraction
    depth: int = 0
    """Largest reorder depth of the segments."""
    frames: int = 0
    starts: list[int] = field(default_factory=list)
    """First time of each segment, in display order."""
    latest: list[int] = field(default_factory=list)
    is_constant: bool = True
    """Whether every frame is within one unit of its place at the nominal rate."""

    def add(self, times: Iterable[int]) -> None:
        """Add the times of the next segment, in coding order."""
        coded = list(times)
        ordered = sorted(coded)
        self.depth = max(self.depth, reorder_depth(coded))
        self.starts.append(ordered[0])
        self.is_constant = self.is_constant and self._is_regular(ordered)
        self.frames += len(ordered)
        self.latest = [*self.latest, *ordered][-_REMEMBERED:]

    def _is_regular(self, ordered: list[int]) -> bool:
        step = 1 / (self.frame_rate * self.time_base)
        places = range(self.frames, self.frames + len(ordered))
        numerator, denominator, start = step.numerator, step.denominator, self.starts[0]
        return all(
            abs((time - start) * denominator - place * numerator) <= denominator
            for place, time in zip(places, ordered, strict=True)
        )

    @property
    def last(self) -> int:
        """Time of the last frame."""
        return self.latest[-1]

    def end(self, last_duration: int) -> End:
        """How the result ends if the last frame lasts about `last_duration`.

        Containers with coarse units round the times of a constant rate. The last frame's length, in finer units,
        restores the nominal rate on average.
        """
        step = 1 / (self.frame_rate * self.time_base)
        if not self.is_constant or step.denominator > _FINEST or abs(last_duration - step) > 1:
            return End(1, last_duration, self._average_rate(last_duration))
        units = step * self.frames - (self.last - self.starts[0])
        return End(step.denominator, int(units * step.denominator), self.frame_rate)

    def _average_rate(self, last_duration: int) -> Fraction:
        units = self.last + last_duration - self.starts[0]
        return (self.frames / (units * self.time_base)).limit_denominator(100_000)

    @property
    def lead(self) -> list[int]:
        """Decoding times of the first frames: as many as frames are reordered, before the first frame's time.

        They repeat the distances of the last frames. An MP4 track's length and frame rate are made of the distances
        between decoding times. These distances are the durations of all frames, in another order.
        """
        final = self.latest[-1 - self.depth :]
        return [self.starts[0] + time - final[-1] for time in final[:-1]]
