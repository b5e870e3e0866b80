"""Frames of a video as RGB arrays."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from media.color.pixels import Pixels
from media.ledger import Ledger, TrackLedger, warnings
from media.limits import DEFAULT_LIMITS, Limits
from media.sandbox.memory import sized
from media.sandbox.process import Sandbox, invalid_message
from media.sandbox.protocol import SLOTS, Decoded, DecodeRequest, FrameFormat, FrameReady, FrameSkipped
from media.types import Canvas

__all__ = ["Frame", "Pixels", "VideoReader"]


@dataclass(frozen=True)
class Frame:
    """One frame: 8 bits a sample, or 16 bits (full range) for sources of more than 8 bits."""

    rgb: Pixels
    """[H, W, 3], C-contiguous."""
    pts: int
    time_base: Fraction
    """Seconds of one unit of `pts`."""
    clean: bool = True
    """Whether no frame so far had a fault. After a clean frame, reading can resume by seeking."""


class VideoReader:
    """Iterator over the frames of a file's video track in display order. A context manager.

    A child process decodes a few frames ahead, with limits on memory, time, files and network. Frames arrive through
    shared memory. Timestamps are strictly increasing. After the last frame, `ledger` lists the losses.

    Create and iterate in the same thread: the child ends with this thread, and can't outlive a killed worker.

    Args:
        path: the file.
        start_after_pts: skip the frames up to and including this timestamp. The other frames are the same as in a
            reading from the start.
        frames_before: number of the skipped frames, if the last of them was `clean`. The reader then seeks to the
            nearest keyframe, in containers where seeking is exact, instead of decoding from the start.
        canvas: size and shape of all frames, `VideoInfo.canvas`; by default the first frame's.
        fields: whether each field of an interlaced frame becomes a frame. Otherwise two fields become one frame.
        limits: bounds of size, frames, memory and time.

    Raises:
        FileNotFoundError: no such file.
        UnsupportedFile, UnusableVideo, OverLimit, DecoderCrashed: during iteration. The file can't be upscaled, is
            damaged in more than half of its frames, exceeds a limit, or crashed the decoder.
    """

    def __init__(
        self,
        path: Path,
        *,
        start_after_pts: int | None = None,
        frames_before: int | None = None,
        canvas: Canvas | None = None,
        fields: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        self.ledger = Ledger()
        """Numbers of read, decoded and lost frames; complete after the last frame."""
        self._limits = limits
        self._memory = os.memfd_create("skipvsr-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        path = path.absolute()
        request = DecodeRequest(path, start_after_pts, frames_before, self._memory, fields, canvas)
        self._process = Sandbox(request, limits, reads=(path,), share=(self._memory,))

    @property
    def video(self) -> TrackLedger:
        """The ledger's entries of the video; complete after the last frame."""
        return self.ledger.tracks[0] if self.ledger.tracks else TrackLedger()

    @property
    def warnings(self) -> tuple[str, ...]:
        """`ledger` as sentences."""
        return warnings(self.ledger)

    def __iter__(self) -> Iterator[Frame]:
        slots: NDArray[Any] | None = None
        time_base = Fraction(1)
        for message in self._process.messages():
            match message:
                case FrameReady(slot, pts, clean) if slots is not None:
                    rgb = slots[slot % SLOTS].copy()
                    self._process.send(b".")
                    yield Frame(rgb, pts, time_base, clean)
                case FrameFormat() if slots is None:
                    time_base = message.time_base
                    slots = self._map(message)
                    self._process.send(b".")
                case FrameSkipped():
                    continue
                case Decoded(ledger):
                    self.ledger = ledger
                case _:
                    raise invalid_message()

    def _map(self, frames: FrameFormat) -> NDArray[Any]:
        """Size and map the shared memory: [SLOTS, H, W, 3]."""
        if frames.bytes_per_sample not in (1, 2) or min(frames.width, frames.height) < 1:
            raise invalid_message()
        subject = f"the video ({frames.width}×{frames.height})"
        self._limits.check("max_pixels", frames.width * frames.height, subject)
        size = frames.width * frames.height * 3 * frames.bytes_per_sample * SLOTS
        mapped = sized(self._memory, size)
        dtype = np.dtype(f"u{frames.bytes_per_sample}")
        return np.frombuffer(mapped, dtype).reshape(SLOTS, frames.height, frames.width, 3)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def kill(self) -> None:
        """Kill the child process. A thread that waits for a frame gets an error."""
        self._process.kill()

    def close(self) -> None:
        """End the child process, and release the shared memory."""
        self._process.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
