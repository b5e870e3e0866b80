"""Frames of a video, one after the other, as RGB arrays."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from media.errors import DecoderCrashed
from media.jailed.decode import Damage
from media.limits import DEFAULT_LIMITS, Limits
from media.plain import SLOTS, from_plain
from media.sandbox.process import Sandbox

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Frame:
    """One frame: RGB with 8 bits a sample, or 16 bits (full range) for sources of more than 8."""

    rgb: Pixels
    """[H, W, 3], C-contiguous."""
    pts: int
    time_base: Fraction
    """Seconds of one unit of `pts`."""
    clean: bool = True
    """Whether all frames up to this one came out as they were coded, so that reading may go on after it by seeking."""


class VideoReader:
    """Iterates over the frames of a file's video track in display order; a context manager.

    Decoding runs ahead by a few frames in a process of its own, with limits on memory, time, files and network; the
    frames come through shared memory. Every `pts` is above the one before. After the last frame, `damage` says what
    was wrong and was got over.

    Iterate in the thread that made it: the process ends with that thread, so that it never outlives a killed worker.

    Args:
        path: the file.
        start_after_pts: leave out the frames up to and including this time; the rest is as if read from the start.
        frames_before: how many these are, if the frame of that time was `clean`: then they are not decoded again, but
            for those since the last keyframe, where the container allows that exactly.
        limits: the bounds for size, frames, memory and time.

    Raises:
        FileNotFoundError: no such file.
        UnsupportedFile, UnusableVideo, OverLimit, DecoderCrashed: while iterating; the file turned out to be unfit, too
            damaged (nothing, or less than half, can be decoded), larger than it said, or deadly to libav.
    """

    def __init__(
        self,
        path: Path,
        *,
        start_after_pts: int | None = None,
        frames_before: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        self.damage = Damage()
        """What was wrong with the frames; complete after the last one."""
        self._limits = limits
        self._memory = os.memfd_create("skipvsr-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        arguments = {
            "path": path.absolute(),
            "start_after_pts": start_after_pts,
            "frames_before": frames_before,
            "memory": self._memory,
        }
        self._process = Sandbox("decode", arguments, limits, share=(self._memory,))

    @property
    def warnings(self) -> tuple[str, ...]:
        """`damage` in words."""
        return self.damage.warnings()

    def __iter__(self) -> Iterator[Frame]:
        slots: NDArray[Any] | None = None
        time_base = Fraction(1)
        for message in self._process.messages():
            match message:
                case {"slot": int(slot), "pts": int(pts), "clean": bool(clean)} if slots is not None:
                    rgb = slots[slot % SLOTS].copy()
                    self._process.send(b".")
                    yield Frame(rgb, pts, time_base, clean)
                case {"width": int(width), "height": int(height), "bytes_per_sample": 1 | 2 as sample} if slots is None:
                    time_base = from_plain(Fraction, message["time_base"])
                    slots = self._slots(width, height, np.dtype("u1" if sample == 1 else "u2"))
                    self._process.send(b".")
                case {"damage": damage}:
                    self.damage = from_plain(Damage, damage)
                case {"skipped": _}:
                    continue
                case _:
                    raise DecoderCrashed("the process that reads the video talks nonsense")

    def _slots(self, width: int, height: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        self._limits.check("max_pixels", width * height, f"the video ({width}×{height})")
        size = width * height * 3 * dtype.itemsize * SLOTS
        os.ftruncate(self._memory, size)
        # Sealed: a child gone bad can't cut the memory away under the parent's feet.
        fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        mapped = mmap.mmap(self._memory, size, prot=mmap.PROT_READ)
        return np.frombuffer(mapped, dtype).reshape(SLOTS, height, width, 3)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process that decodes, and release the memory."""
        self._process.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1


def pixels(frame: VideoFrame) -> Pixels:
    """Copy an rgb24 or rgb48le frame to an array [H, W, 3]."""
    plane = frame.planes[0]
    dtype = np.uint8 if frame.format.name == "rgb24" else np.dtype("<u2")
    rows = np.frombuffer(memoryview(plane), dtype).reshape(frame.height, plane.line_size // np.dtype(dtype).itemsize)
    return np.ascontiguousarray(rows[:, : 3 * frame.width]).reshape(frame.height, frame.width, 3)
