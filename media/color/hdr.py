"""HDR10's static metadata: what display the video was made on (ST 2086), and how bright it gets (CTA-861.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final

_Point = tuple[Fraction, Fraction]
_PARENTS: Final = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
"""The boxes of an MP4 file, from the outside in, in which the description of the video lies."""
_SAMPLE_ENTRY_BYTES: Final = 8 + 78
"""Box header and fields of a VisualSampleEntry, before its inner boxes."""


@dataclass(frozen=True)
class MasteringDisplay:
    """CIE 1931 x, y of the primaries and of white; cd/m²."""

    red: _Point
    green: _Point
    blue: _Point
    white: _Point
    darkest: Fraction
    brightest: Fraction


def mastering_display(data: bytes | None) -> MasteringDisplay | None:
    """libav's AVMasteringDisplayMetadata in numbers; None where it says nothing."""
    if data is None or len(data) < 88:
        return None
    *rationals, has_primaries, has_luminance = struct.unpack("=20i2i", data[:88])
    if not (has_primaries and has_luminance):
        return None
    values = [Fraction(n, d) if d else Fraction(0) for n, d in zip(rationals[::2], rationals[1::2], strict=True)]
    red, green, blue, white = ((values[i], values[i + 1]) for i in range(0, 8, 2))
    return MasteringDisplay(red, green, blue, white, darkest=values[8], brightest=values[9])


def boxes(display: MasteringDisplay | None, light: tuple[int, int] | None) -> bytes:
    """The boxes `mdcv` and `clli` of ISO/IEC 14496-12; `light` is MaxCLL and MaxFALL in cd/m²."""
    data = b""
    if display is not None:
        points = (display.green, display.blue, display.red, display.white)
        numbers = [_within(round(value * 50000), 16) for point in points for value in point]
        levels = [_within(round(value * 10000), 32) for value in (display.brightest, display.darkest)]
        data += struct.pack(">I4s8H2I", 32, b"mdcv", *numbers, *levels)
    if light is not None:
        data += struct.pack(">I4s2H", 12, b"clli", *(_within(value, 16) for value in light))
    return data


def header_with(segment: Path, extra: bytes) -> bytes:
    """The head of an MP4 file of one video track, with `extra` boxes in its description of the video.

    Encoders write HDR10's metadata into the stream only. libav's muxers take what goes into the container from the
    stream that they are given as a template: this is that template.

    Raises:
        ValueError: not such a file.
    """
    with segment.open("rb") as file:
        head, movie = _box(file, b"ftyp"), bytearray(_box(file, b"moov"))
    at, end = 0, len(movie)
    sizes = []
    for name in _PARENTS:
        at, end = _find(movie, name, at, end)
        sizes.append(at)
        at += 16 if name == b"stsd" else 8
    sizes.append(at)  # the first sample entry
    if at + _SAMPLE_ENTRY_BYTES > end:
        raise ValueError(f"{segment.name} does not describe its video")
    insert = at + int.from_bytes(movie[at : at + 4], "big")
    movie[insert:insert] = extra
    for place in sizes:
        struct.pack_into(">I", movie, place, struct.unpack_from(">I", movie, place)[0] + len(extra))
    return head + bytes(movie)


def _box(file: BinaryIO, name: bytes) -> bytes:
    """The first box of a name at the outermost level."""
    file.seek(0)
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[:4], "big")
        skip = size - 8
        if size == 1:
            skip = int.from_bytes(file.read(8), "big") - 16
        if head[4:] == name:
            return head + file.read(skip)
        file.seek(skip, 1)
    raise ValueError(f"no box {name.decode()}")


def _find(data: bytearray, name: bytes, at: int, end: int) -> tuple[int, int]:
    """Start and end of the first box of a name between two places."""
    while at + 8 <= end:
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == name:
            return at, at + size
        at += max(size, 8)
    raise ValueError(f"no box {name.decode()}")


def _within(value: int, bits: int) -> int:
    return min(max(value, 0), (1 << bits) - 1)
