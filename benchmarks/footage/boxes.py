"""Boxes of MP4 and MOV files, read by hand: facts that libav does not report."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_PARENTS: Final = frozenset([b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"ilst"])
_LARGEST: Final = 64 * 2**20
"""Bytes of an index. Larger ones are not read."""


def mp4_facts(path: Path) -> dict[str, Any]:
    """Facts of the boxes of each track, in the file's order, and iTunes' tags. Empty for other containers."""
    index = _index(path)
    if index is None:
        return {}
    tracks: list[dict[str, Any]] = []
    tags: list[str] = []
    for parents, name, data in _walk(index, ()):
        if name == b"tkhd":
            tracks.append(_track_header(data))
        elif name == b"stts" and tracks:
            tracks[-1]["stts_entries"] = struct.unpack_from(">I", data, 4)[0]
        elif name == b"stsd" and tracks:
            tracks[-1]["sample_entry"] = data[12:16].decode("latin-1")
        elif name == b"elst" and tracks:
            tracks[-1]["edits"] = _edits(data)
        elif parents and parents[-1] == b"ilst":
            tags.append(name.decode("latin-1"))
    return {"tracks": tracks, "itunes_tags": tags}


def _index(path: Path) -> bytes | None:
    with path.open("rb") as file:
        while len(head := file.read(8)) == 8:
            size, name = struct.unpack(">I4s", head)
            skip = size - 8
            if size == 1:
                skip = struct.unpack(">Q", file.read(8))[0] - 16
            if name == b"moov":
                return file.read(skip) if 0 <= skip <= _LARGEST else None
            if skip < 0 or not name.isascii():
                return None
            file.seek(skip, 1)
    return None


def _walk(data: bytes, parents: tuple[bytes, ...]) -> Iterator[tuple[tuple[bytes, ...], bytes, bytes]]:
    """Yield (names of the boxes around, name, content) of each box, from the outside in."""
    at = 0
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + max(size, 8)]
        yield parents, name, body
        if name in _PARENTS and len(parents) < 12:
            yield from _walk(body, (*parents, name))
        elif name == b"meta" and len(parents) < 12:
            yield from _walk(body[4:] if body[4:8] != b"hdlr" else body, (*parents, name))
        at += max(size, 8)


def _track_header(data: bytes) -> dict[str, Any]:
    after = 88 if data[0] else 76  # version 1 has times of 64 bits
    width, height = struct.unpack_from(">II", data, after)
    return {"width": width / 65536, "height": height / 65536}


def _edits(data: bytes) -> list[list[int]]:
    """Duration in units of the movie, and first time in units of the track, of each edit."""
    count = struct.unpack_from(">I", data, 4)[0]
    form = ">qq4x" if data[0] else ">Ii4x"
    step = struct.calcsize(form)
    return [list(struct.unpack_from(form, data, 8 + step * n)) for n in range(min(count, (len(data) - 8) // step))]
