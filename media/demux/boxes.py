"""MP4's boxes that libav does not hand on: the sample entry of a track, and the nested boxes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from media.boxes import outer_boxes
from media.demux.ends import Hole

_TABLES: Final = ("mdia", "minf", "stbl", "stsd")
"""Boxes of a track around its sample entries, from the outside in."""
_FIELDS: Final = 78
"""Bytes of a VisualSampleEntry before its inner boxes."""
_MOST: Final = 1 << 16
"""Bytes of a box that are read at most."""
_DEPTH: Final = 4
"""Levels of boxes inside a sample entry."""


class SampleEntry(NamedTuple):
    """First entry of a video track's sample description."""

    name: str
    """avc1, hvc1, encv, …"""
    boxes: dict[str, bytes]
    """The first inner box of each name, at any depth: name → content."""


def breaks_off(path: Path, missing: Hole | None) -> bool:
    """Whether a file surely ends before the end of its index, the box `moov`.

    Args:
        path: the file.
        missing: bytes that are not known, and may hold the index.
    """
    with path.open("rb") as file:
        size, end = max(file.seek(0, 2), missing[1] if missing else 0), 0
        for name, begin, end in outer_boxes(file):
            if _unknown(begin, missing):
                return False
            if name == b"moov":
                return end > size
        if _unknown(end, missing):
            return False
        file.seek(end)
        return file.read(8) == b"\0\0\0\0mdat" or end + 8 > size  # a recorder writes the length of `mdat` at the end


def _unknown(at: int, missing: Hole | None) -> bool:
    """Whether a box's head at this offset is not known."""
    return missing is not None and at + 16 > missing[0] and at < missing[1]


def sample_entry(path: Path, track_id: int) -> SampleEntry | None:
    """Sample entry of a track. None if the file has no such track."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for movie in _find(file, "moov", 0, size):
            for track in _find(file, "trak", *movie):
                if _track_id(file, *track) == track_id:
                    return _entry(file, track)
    return None


def _entry(file: BinaryIO, track: tuple[int, int]) -> SampleEntry | None:
    at, end = track
    for name in _TABLES:
        found = next(_find(file, name, at, end), None)
        if found is None:
            return None
        at, end = found
    first = next(_boxes(file, at + 8, end), None)  # after version, flags and number of entries
    if first is None:
        return None
    name, start, stop = first
    file.seek(start + _FIELDS)
    return SampleEntry(name, dict(_inner(file.read(max(0, min(stop - start - _FIELDS, _MOST))))))


def _track_id(file: BinaryIO, at: int, end: int) -> int | None:
    for start, stop in _find(file, "tkhd", at, end):
        file.seek(start)
        data = file.read(min(stop - start, 24))
        place = 20 if data[:1] == b"\1" else 12
        return int.from_bytes(data[place : place + 4], "big")
    return None


def _find(file: BinaryIO, name: str, at: int, end: int) -> Iterator[tuple[int, int]]:
    """Start and end of the content of each box of a name between two offsets."""
    return ((start, stop) for found, start, stop in _boxes(file, at, end) if found == name)


def _boxes(file: BinaryIO, at: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of the content of each box between two offsets."""
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size, start = int.from_bytes(head[:4], "big"), at + 8
        if size == 1:
            size, start = int.from_bytes(head[8:16], "big"), at + 16
        stop = end if size == 0 else at + size
        if stop < start:
            return
        yield head[4:8].decode("latin-1"), start, min(stop, end)
        at = stop


def _inner(data: bytes, depth: int = _DEPTH) -> Iterator[tuple[str, bytes]]:
    """Name and content of each box. Outer boxes follow their inner boxes: the outer boxes win."""
    at = 0
    found = []
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if size < 8:
            break
        found.append((name.decode("latin-1"), data[at + 8 : at + size]))
        at += size
    for name, content in reversed(found):
        if depth:
            yield from _inner(content, depth - 1)
        yield name, content
