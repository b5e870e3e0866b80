"""Matroska's track entries, of which libav hands on a part only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_SEGMENT, _TRACKS, _ENTRY, _CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0x1F43B675
_TYPE: Final = 0x83
_VIDEO: Final = 1
_MASTERS: Final = frozenset({0xE0, 0x6D80, 0x6240})
"""Elements of a track entry whose inner elements count as the entry's: Video, ContentEncodings, ContentEncoding."""
_MOST: Final = 1 << 20
"""Bytes of the track entries that are read at most."""

Elements = dict[int, list[bytes]]
"""Number of an element → the contents of all elements with this number."""


def video_entry(path: Path, number: int) -> Elements | None:
    """Elements of the `number`-th video track, those of nested elements included. None: no such track."""
    with path.open("rb") as file:
        tracks = _tracks(file)
    entries = [flat(content) for element, content in _elements(tracks) if element == _ENTRY]
    videos = [entry for entry in entries if unsigned(entry, _TYPE) == _VIDEO]
    return videos[number] if number < len(videos) else None


def unsigned(entry: Elements, element: int, default: int = 0) -> int:
    """Value of the first unsigned integer with this number."""
    return int.from_bytes(entry[element][0][:8], "big") if element in entry else default


def _tracks(file: BinaryIO) -> bytes:
    """Content of the element Tracks, which precedes the clusters. Empty if there is none."""
    end = file.seek(0, 2)
    at = 0
    while at < end:
        file.seek(at)
        head = file.read(12)
        element, content, size = _head(head, 0)
        if element == _TRACKS:
            file.seek(at + content)
            return file.read(min(size if size is not None else _MOST, _MOST))
        if element is None or element == _CLUSTER or (size is None and element != _SEGMENT):
            break
        at += content if element == _SEGMENT else content + (size or 0)
    return b""


def flat(data: bytes) -> Elements:
    """The elements in some bytes."""
    found: Elements = {}
    for element, content in _elements(data):
        if element in _MASTERS:
            for inner, contents in flat(content).items():
                found.setdefault(inner, []).extend(contents)
        found.setdefault(element, []).append(content)
    return found


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        element, length, size = _head(data, at)
        if element is None or size is None:
            return
        yield element, data[at + length : at + length + size]
        at += length + size


def _head(data: bytes, at: int) -> tuple[int | None, int, int | None]:
    """Number of the element at an offset, length of its head, and size of its content. None: unknown."""
    name = _length(data, at, 4)
    width = _length(data, at + name, 8) if name else 0
    if not name or not width or at + name + width > len(data):
        return None, 0, None
    number = int.from_bytes(data[at : at + name], "big")
    bits = 7 * width
    size = int.from_bytes(data[at + name : at + name + width], "big") & ((1 << bits) - 1)
    return number, name + width, None if size == (1 << bits) - 1 else size


def _length(data: bytes, at: int, most: int) -> int:
    """Bytes of the number at an offset, by its leading zeros. 0: invalid."""
    if at >= len(data):
        return 0
    length = 9 - data[at].bit_length()
    return length if length <= most else 0
