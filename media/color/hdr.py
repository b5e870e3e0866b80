"""HDR10's static metadata: the mastering display (SMPTE ST 2086) and content light levels (CTA-861.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from media.boxes import read_outer_box

_Point = tuple[Fraction, Fraction]
_PARENTS: Final = (b"trak", b"mdia", b"minf", b"stbl", b"stsd")
"""Boxes around the sample entry, from the outside in."""


@dataclass(frozen=True)
class MasteringDisplay:
    """CIE 1931 x, y of the primaries and the white point; luminances in cd/m²."""

    red: _Point
    green: _Point
    blue: _Point
    white: _Point
    darkest: Fraction
    brightest: Fraction


def mastering_display(data: bytes | None) -> MasteringDisplay | None:
    """Parse libav's AVMasteringDisplayMetadata. None if primaries or luminances are missing."""
    if data is None or len(data) < 88:
        return None
    *rationals, has_primaries, has_luminance = struct.unpack("=20i2i", data[:88])
    if not (has_primaries and has_luminance):
        return None
    values = [Fraction(n, d) if d else Fraction(0) for n, d in zip(rationals[::2], rationals[1::2], strict=True)]
    red, green, blue, white = ((values[i], values[i + 1]) for i in range(0, 8, 2))
    return MasteringDisplay(red, green, blue, white, darkest=values[8], brightest=values[9])


def hdr_boxes(display: MasteringDisplay | None, light: tuple[int, int] | None) -> bytes:
    """MP4's boxes `mdcv` and `clli` (ISO/IEC 14496-12).

    Args:
        light: MaxCLL and MaxFALL in cd/m².
    """
    data = b""
    if display is not None:
        points = (display.green, display.blue, display.red, display.white)
        numbers = [_clamped(round(value * 50000), 16) for point in points for value in point]
        levels = [_clamped(round(value * 10000), 32) for value in (display.brightest, display.darkest)]
        data += struct.pack(">I4s8H2I", 32, b"mdcv", *numbers, *levels)
    if light is not None:
        data += struct.pack(">I4s2H", 12, b"clli", *(_clamped(value, 16) for value in light))
    return data


def header_with_boxes(segment: Path, boxes: bytes) -> bytes:
    """Header of an MP4 file with one video track, with `boxes` added to the track's sample entry.

    Encoders write HDR10's metadata into the stream only. libav's muxers copy the container's metadata from the stream
    that they receive as a template. This header is the template.

    Raises:
        ValueError: not an MP4 file with one video track.
    """
    with segment.open("rb") as file:
        head, movie = read_outer_box(file, b"ftyp"), read_outer_box(file, b"moov")
    entries = movie.find(*_PARENTS)
    if entries is None or not entries.inner:
        raise ValueError(f"{segment.name} has no video track")
    entries.inner[0].fields += boxes
    return bytes(head) + bytes(movie)


def _clamped(value: int, bits: int) -> int:
    return min(max(value, 0), (1 << bits) - 1)
