"""The length that a file's header promises, in time and in bytes."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.video.stream import VideoStream

_TRUSTED: Final = ("flv", "asf", "mxf")
"""Containers whose header holds the duration of the file. In others, libav estimates a missing one."""
_MATROSKA: Final = "matroska,webm"
_SEGMENT, _INFO, _SCALE, _DURATION, _CLUSTER = 0x18538067, 0x1549A966, 0x2AD7B1, 0x4489, 0x1F43B675
_HEADER_BYTES: Final = 2**16
"""Matroska's header is searched up to here."""


def promised_seconds(container: InputContainer, stream: VideoStream, path: Path) -> float:
    """Duration that the header promises: of the file, or in AVI of the video. 0: it promises none."""
    name = container.format.name
    if name == _MATROSKA:
        return _matroska_seconds(path)
    if name == "avi":
        return float((stream.duration or 0) * (stream.time_base or 0))
    if name in _TRUSTED:
        return float(Fraction(container.duration or 0, av.time_base))
    return 0.0


def _matroska_seconds(path: Path) -> float:
    """Duration in the header of a Matroska file. 0 if there is none."""
    with path.open("rb") as file:
        data = file.read(_HEADER_BYTES)
    scale, at = 1_000_000, 0
    while (element := _element(data, at)) is not None:
        identifier, begin, end = element
        if identifier == _CLUSTER:
            break
        if identifier == _SCALE:
            scale = int.from_bytes(data[begin:end])
        if identifier == _DURATION and end - begin in (4, 8):
            return _real(data[begin:end]) * scale / 1e9
        at = begin if identifier in (_SEGMENT, _INFO) else end
    return 0.0


def _element(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Identifier, begin and end of the content of the element at `at`. None if it is not in `data`."""
    identifier = _number(data, at, keep_marker=True)
    size = identifier and _number(data, at + identifier[1], keep_marker=False)
    if not identifier or not size:
        return None
    begin = at + identifier[1] + size[1]
    return identifier[0], begin, begin + size[0]


def _number(data: bytes, at: int, *, keep_marker: bool) -> tuple[int, int] | None:
    """One of EBML's numbers of variable length, and its length."""
    if at >= len(data) or not data[at]:
        return None
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length])
    return value if keep_marker else value & ((1 << 7 * length) - 1), length


def _real(data: bytes) -> float:
    value: float = struct.unpack(">f" if len(data) == 4 else ">d", data)[0]
    return value if 0 < value < float("inf") else 0.0
