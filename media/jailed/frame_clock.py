"""Strictly increasing timestamps for decoded frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Final

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.demux.monotonic import is_restart
from media.ledger import TrackLedger

_DEFAULT_RATE: Final = Fraction(25)


class FrameClock:
    """Replaces missing and non-monotonic timestamps, and appends frames after a restart to the earlier ones.

    Args:
        stream: the frames' stream, for time base and frame rate.
        track: counts restarts and replaced timestamps.
        last: pts of the frame before the first one, if decoding begins in the middle.
    """

    def __init__(self, stream: VideoStream, track: TrackLedger, *, last: int | None) -> None:
        self._time_base = stream.time_base or Fraction(1)
        rate = stream.average_rate or stream.guessed_rate or _DEFAULT_RATE
        self._step = max(1, round(1 / (rate * self._time_base)))
        self._track = track
        self._last = last
        self._shift = 0

    def stamped(self, frames: Iterable[VideoFrame]) -> Iterator[tuple[VideoFrame, int]]:
        """Yield each frame with its pts."""
        for frame in frames:
            self._last = self._next(frame.pts)
            yield frame, self._last

    def _next(self, pts: int | None) -> int:
        if pts is not None:
            pts += self._shift
            if self._last is None or pts > self._last:
                return pts
            if is_restart(pts, self._last, self._time_base):
                self._track.restarts += 1
                self._shift += self._last + self._step - pts
                return self._last + self._step
        self._track.repaired_times += 1
        if self._last is None:
            return 0
        return self._last + (self._step if pts is None else 1)
