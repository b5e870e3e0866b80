"""Boxes of MP4 and QuickTime files (ISO/IEC 14496-12) as a tree that can be changed and written again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

# Name of each box with inner boxes that this package visits → bytes of its own fields before the inner boxes.
_CONTAINERS: Final = dict.fromkeys((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"udta"), 0) | {b"stsd": 8}


@dataclass
class Box:
    """A box: a name, fields, and inner boxes. The bytes of boxes of no interest are fields."""

    name: bytes
    fields: bytearray = field(default_factory=bytearray)
    inner: list[Box] = field(default_factory=list)

    def find(self, *path: bytes) -> Box | None:
        """The first inner box of each name in turn. None: there is no such box."""
        box: Box | None = self
        for name in path:
            box = next((inner for inner in box.inner if inner.name == name), None) if box else None
        return box

    def all(self, name: bytes) -> Iterator[Box]:
        """All inner boxes of a name, at any depth."""
        for inner in self.inner:
            if inner.name == name:
                yield inner
            yield from inner.all(name)

    def __bytes__(self) -> bytes:
        body = b"".join((self.fields, *map(bytes, self.inner)))
        return (8 + len(body)).to_bytes(4, "big") + self.name + body


def parse(data: bytes) -> Iterator[Box]:
    """Parse consecutive boxes.

    Raises:
        ValueError: a box is longer than the data.
    """
    at = 0
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if not 8 <= size <= len(data) - at:
            raise ValueError(f"the box {name!r} has an impossible size")
        body = data[at + 8 : at + size]
        own = _CONTAINERS.get(name, len(body))
        yield Box(name, bytearray(body[:own]), list(parse(body[own:])))
        at += size


def outer_boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of each box at the outermost level of a file."""
    at, end = 0, file.seek(0, 2)
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:
            return
        yield head[4:8], at, at + size
        at += size


def read_outer_box(file: BinaryIO, name: bytes) -> Box:
    """Read the first box of a name at the outermost level.

    Raises:
        ValueError: no such box.
    """
    for found, start, end in outer_boxes(file):
        if found == name:
            file.seek(start)
            return next(parse(file.read(end - start)))
    raise ValueError(f"no box {name.decode()}")
