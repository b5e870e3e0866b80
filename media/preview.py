"""One frame of a video as a WebP picture."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Final, NamedTuple

from media.encode.picture import webp
from media.errors import DecoderCrashed
from media.limits import DEFAULT_LIMITS, Limits
from media.sandbox.memory import sized
from media.sandbox.process import Sandbox, invalid_message
from media.sandbox.protocol import SLOTS, FrameFormat, FrameReady, PreviewRequest

MOST: Final = (3840, 2160)
"""Largest width and height of a preview."""


class Preview(NamedTuple):
    """A frame as a picture."""

    webp: bytes
    seconds: float
    """Time of the frame, from the first frame of the video."""


def preview(
    path: Path,
    seconds: float | None,
    *,
    segments: tuple[Path, ...] = (),
    of_result: bool = False,
    fields: bool = False,
    enlarge: Fraction | None = Fraction(1),
    width: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Preview:
    """The frame that is shown at a time. A child process decodes, with limits on memory, time, files and network.

    Args:
        path: the source, or a finished result.
        seconds: time from the first frame. None: the last frame of the segments, or of the file without segments.
        segments: the segments of an unfinished result of the source.
        of_result: whether to show a frame of the segments instead of the source.
        fields: whether each field of an interlaced frame is a frame of the segments.
        enlarge: factor of the picture's size, by bicubic interpolation. None: to the size of the segments.
        width: largest width of the picture.
        limits: bounds of size, memory and time.

    Raises:
        FrameMissing: the segments do not reach as far.
        UnsupportedFile, UnusableVideo, OverLimit, DecoderCrashed: no frame can be decoded.
        FileNotFoundError: a file has vanished.
        OSError: a file cannot be read.
    """
    paths = tuple(file.absolute() for file in segments)
    path = path.absolute()
    for file in (path, *paths):
        file.stat()  # FileNotFoundError rather than a message of the decoder
    memory = os.memfd_create("skipvsr-preview", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        most = min(width or MOST[0], MOST[0]), MOST[1]
        request = PreviewRequest(path, paths, of_result, seconds, fields, enlarge, most, memory)
        with Sandbox(request, limits, reads=(path, *paths), share=(memory,)) as process:
            return _received(process, memory)
    finally:
        os.close(memory)


def _received(process: Sandbox, memory: int) -> Preview:
    size = (0, 0)
    for message in process.messages():
        match message:
            case FrameFormat(width, height, 1, time_base) if size == (0, 0):
                if not (0 < width <= MOST[0] and 0 < height <= MOST[1]):
                    raise invalid_message()
                size, unit = (width, height), time_base
                mapped = sized(memory, SLOTS * 3 * width * height)
                process.send(b".")
            case FrameReady(slot=0, pts=pts) if size != (0, 0):
                with mapped:
                    return Preview(webp(mapped[: 3 * size[0] * size[1]], *size), float(pts * unit))
            case _:
                raise invalid_message()
    raise DecoderCrashed("The decoder ended without a picture; the file is probably corrupt.")
