"""Animated pictures (GIF, APNG, WebP): single pictures, and the number of repetitions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from media.demux.webp import read_animation
from media.errors import UnusableVideo

ANIMATIONS: Final = ("gif", "apng", "webp")
"""libav's names of the codecs, and of their containers."""
_HEAD: Final = 1 << 16
"""Bytes at the start of a file that are searched for the number of repetitions."""
_GIF_LOOP: Final = rb"(?s)!\xff\x0bNETSCAPE2\.0\x03\x01(..)\x00"
_APNG_CONTROL: Final = rb"(?s)\x00\x00\x00\x08acTL(.{4})(.{4})"


def check_animation(path: Path, codec: str, frames: int) -> list[str]:
    """Warnings about an animated picture.

    Args:
        frames: number of frames. 0: unknown.

    Raises:
        UnusableVideo: a single picture.
    """
    if codec == "webp":
        animation = read_animation(path)
        frames, plays = len(animation.parts), animation.plays
        warnings = [] if animation.complete else ["The file breaks off; the end of the animation is missing."]
    else:
        frames, plays = _counts(path, codec, frames)
        warnings = []
    if frames == 1:
        raise UnusableVideo(f"The {codec.upper()} is a single picture. Only animations are upscaled.")
    if plays != 1:
        often = "endlessly" if plays == 0 else "several times"
        warnings.append(f"The animation repeats {often}; the result plays once.")
    return warnings


def _counts(path: Path, codec: str, frames: int) -> tuple[int, int]:
    """Number of frames, and of repetitions (0: endlessly), of a GIF or APNG."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if codec == "gif":
        loop = re.search(_GIF_LOOP, head)
        return frames, 1 if loop is None else int.from_bytes(loop[1], "little")
    control = re.search(_APNG_CONTROL, head)
    return (int.from_bytes(control[1], "big"), int.from_bytes(control[2], "big")) if control else (frames, 1)
