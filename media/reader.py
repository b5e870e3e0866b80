"""Frames of a video, one after the other, as RGB arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from media.decode import Damage, Decoder
from media.limits import DEFAULT_LIMITS, Limits

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Frame:
    """One frame: RGB with 8 bits a sample, or 16 bits (full range) for sources of more than 8."""

    rgb: Pixels
    """[H, W, 3], C-contiguous."""
    pts: int
    time_base: Fraction
    """Seconds of one unit of `pts`."""


class VideoReader:
    """Iterates over the frames of a file's video track in display order; a context manager.

    Every `pts` is above the one before. After the last frame, `damage` says what was wrong and was got over.

    Args:
        path: the file.
        start_after_pts: leave out the frames up to and including this time; the rest is as if read from the start.
        limits: the bounds for size, frames, memory and time.

    Raises:
        UnsupportedFile, UnusableVideo, OverLimit: while iterating; the file turned out to be unfit, too damaged
            (nothing, or less than half, can be decoded) or larger than it said.
    """

    def __init__(self, path: Path, *, start_after_pts: int | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        self._decoder = Decoder(path, limits, start_after_pts=start_after_pts)
        self._frames: Iterator[Frame] | None = None

    @property
    def damage(self) -> Damage:
        """What was wrong with the frames so far."""
        return self._decoder.damage

    @property
    def warnings(self) -> tuple[str, ...]:
        """`damage` in words; complete after the last frame."""
        return self.damage.warnings()

    def __iter__(self) -> Iterator[Frame]:
        for frame, pts, time_base in self._decoder.frames():
            yield Frame(pixels(frame), pts, time_base)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""


def pixels(frame: VideoFrame) -> Pixels:
    """Copy an rgb24 or rgb48le frame to an array [H, W, 3]."""
    plane = frame.planes[0]
    dtype = np.uint8 if frame.format.name == "rgb24" else np.dtype("<u2")
    rows = np.frombuffer(memoryview(plane), dtype).reshape(frame.height, plane.line_size // np.dtype(dtype).itemsize)
    return np.ascontiguousarray(rows[:, : 3 * frame.width]).reshape(frame.height, frame.width, 3)
