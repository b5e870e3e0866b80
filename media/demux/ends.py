"""Files with known ends only: the first bytes, and maybe the last bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, TypeAlias

Hole: TypeAlias = tuple[int, int]
"""First unknown byte, and the next known byte."""
_hole: Final[ContextVar[Hole | None]] = ContextVar("hole", default=None)

_ZEROS: Final = 2**18
"""Bytes at the end of the hole that read as zeros: libav seeks 250 kB before the end to learn the length."""


@contextmanager
def only_ends(missing: Hole | None) -> Iterator[None]:
    """Inspect a file with unknown bytes during the block."""
    token = _hole.set(missing)
    try:
        yield
    finally:
        _hole.reset(token)


def hole() -> Hole | None:
    """The unknown bytes of the inspected file; None: the whole file is known."""
    return _hole.get()


class Ends(io.RawIOBase):
    """A file with a hole, for libav. The file seems to end where the hole begins.

    libav would search gigabytes of zeros for the next packet, which takes most of a minute.
    """

    def __init__(self, path: Path, missing: Hole) -> None:
        self.name = f"file:{path}"
        self._file = path.open("rb", buffering=0)
        begin, end = missing
        self._begin, self._end = begin, max(begin, end - _ZEROS)

    def readable(self) -> bool:
        """Whether the file can be read."""
        return True

    def seekable(self) -> bool:
        """Whether the position can change."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Change the position."""
        return self._file.seek(offset, whence)

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes, and not into the hole."""
        at = self._file.tell()
        if at < self._begin:
            return self._file.read(min(size, self._begin - at)) or b""
        return b"" if at < self._end else self._file.read(size) or b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
