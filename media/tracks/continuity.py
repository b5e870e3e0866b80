"""Continuous sound: decoded frames that follow each other without a gap, an overlap or a missing time."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from av.audio.frame import AudioFrame
from av.audio.plane import AudioPlane

_TOLERANCE: Final = Fraction(1, 20)
"""Seconds by which a time may differ from the end of the sound before. Containers round times, and jitter."""
_LONGEST_SILENCE: Final = 600
"""Seconds. A longer gap stays a gap: an encoder would work for hours on one wrong timestamp."""
_BLOCK: Final = 8192
"""Samples of one frame of silence."""


class Continuity:
    """Gives each decoded frame its place in seconds.

    A frame without a time follows the frame before; the first frame begins with its packet. Small differences between a
    time and the end of the sound before are rounding: the frame follows without a gap. A larger gap becomes silence,
    and overlapping sound is dropped.
    """

    def __init__(self) -> None:
        self._end: Fraction | None = None

    def placed(self, frame: AudioFrame, packet_time: Fraction | None) -> Iterator[tuple[AudioFrame, Fraction]]:
        """Yield (frame, start in seconds) for silence before the frame, and for what remains of the frame.

        Args:
            packet_time: time in seconds of the packet that the frame comes from.
        """
        rate = frame.sample_rate
        if not (rate and frame.samples):
            return
        time = frame.pts * frame.time_base if frame.pts is not None and frame.time_base else None
        if self._end is None:
            self._end = time if time is not None else packet_time or Fraction(0)
        gap = Fraction(0) if time is None else time - self._end
        if gap > _LONGEST_SILENCE:
            self._end += gap
        elif gap > _TOLERANCE:
            yield from self._silence(frame, round(gap * rate))
        left: AudioFrame | None = frame
        if gap < -_TOLERANCE:
            left = _without_start(frame, round(-gap * rate))
        if left is not None:
            yield left, self._end
            self._end += Fraction(left.samples, rate)

    def _silence(self, like: AudioFrame, samples: int) -> Iterator[tuple[AudioFrame, Fraction]]:
        assert self._end is not None
        while samples > 0:
            block = _empty(like, min(samples, _BLOCK))
            for plane in _planes(block):
                plane.update(_silent_byte(like) * plane.buffer_size)
            yield block, self._end
            self._end += Fraction(block.samples, like.sample_rate)
            samples -= block.samples


def _empty(like: AudioFrame, samples: int) -> AudioFrame:
    block = AudioFrame(like.format.name, like.layout.name, samples)
    block.sample_rate = like.sample_rate
    return block


def _silent_byte(frame: AudioFrame) -> bytes:
    return b"\x80" if frame.format.name.startswith("u8") else b"\0"


def _planes(frame: AudioFrame) -> tuple[AudioPlane, ...]:
    """The planes with samples. PyAV can find one more behind eight."""
    return frame.planes[: frame.layout.nb_channels if frame.format.is_planar else 1]


def _without_start(frame: AudioFrame, samples: int) -> AudioFrame | None:
    """The frame without its first samples. None if nothing remains."""
    if samples >= frame.samples:
        return None
    rest = _empty(frame, frame.samples - samples)
    size = frame.format.bytes * (1 if frame.format.is_planar else frame.layout.nb_channels)
    for old, new in zip(_planes(frame), _planes(rest), strict=True):
        part = bytes(old)[samples * size : frame.samples * size]
        new.update(part.ljust(new.buffer_size, b"\0"))
    return rest
