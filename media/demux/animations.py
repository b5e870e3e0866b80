"""Animated pictures (GIF, APNG): single pictures, and the number of repetitions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from media.errors import UnusableVideo

ANIMATIONS: Final = ("gif", "apng")
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
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if codec == "gif":
        loop = re.search(_GIF_LOOP, head)
        plays = 1 if loop is None else int.from_bytes(loop[1], "little")
    else:
        control = re.search(_APNG_CONTROL, head)
        frames, plays = (int.from_bytes(number, "big") for number in control.groups()) if control else (frames, 1)
    if frames == 1:
        raise UnusableVideo(f"The {codec.upper()} is a single picture. Only animations are upscaled.")
    if plays == 1:
        return []
    return [f"The animation repeats {'endlessly' if plays == 0 else 'several times'}; the result plays once."]
