"""Changes in a working folder since the last save.

A program that writes into a working folder either replaces a file by a rename, or appends to the file. A file with the
same inode and more bytes has grown: only the file's end is new.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from jobs.ledger import Filed, Piece


class Change(NamedTuple):
    """New bytes of a file."""

    name: str
    path: Path
    kept: int
    """Number of the earlier pieces that stay."""
    start: int
    """Number of bytes in these pieces."""
    end: int
    """Size of the file."""

    def added(self) -> bytes:
        """The new bytes."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.end - self.start)


class _Stamp(NamedTuple):
    inode: int
    size: int
    modified: int


class WorkingFiles:
    """The files of a working folder, and their pieces in the bucket.

    Args:
        folder: the working folder.
        saved: the files in the bucket, which the folder holds already.
    """

    def __init__(self, folder: Path, saved: Mapping[str, Filed]) -> None:
        self._folder, self._saved = folder, dict(saved)
        self._stamps = self._look()

    def changes(self) -> list[Change]:
        """The new bytes of all files that are new, replaced or grown."""
        found = self._look()
        changed = [name for name, stamp in found.items() if self._stamps.get(name) != stamp]
        return [self._change(name, found[name]) for name in changed]

    def merged(self, changes: Iterable[tuple[Change, Piece]], now: float) -> dict[str, Filed]:
        """All files of the folder after the upload of changes at a time."""
        work = {name: filed for name, filed in self._saved.items() if (self._folder / name).exists()}
        for change, piece in changes:
            before = self._saved[change.name].pieces[: change.kept] if change.kept else []
            work[change.name] = Filed(pieces=[*before, piece], modified=now)
        return work

    def saved(self, work: Mapping[str, Filed]) -> None:
        """Note that the bucket now has these files."""
        self._saved, self._stamps = dict(work), self._look()

    def _change(self, name: str, stamp: _Stamp) -> Change:
        """A piece no larger than the bytes behind merges with these bytes: a file has few pieces."""
        path, before, filed = self._folder / name, self._stamps.get(name), self._saved.get(name)
        if before is None or filed is None or before.inode != stamp.inode or stamp.size <= before.size:
            return Change(name, path, 0, 0, stamp.size)
        kept, start = len(filed.pieces), filed.size
        while kept and filed.pieces[kept - 1].size <= stamp.size - start:
            kept -= 1
            start -= filed.pieces[kept].size
        return Change(name, path, kept, start, stamp.size)

    def _look(self) -> dict[str, _Stamp]:
        found = {}
        for path in self._folder.iterdir():
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode) and not path.name.startswith(".") and path.suffix != ".part":
                found[path.name] = _Stamp(facts.st_ino, facts.st_size, facts.st_mtime_ns)
        return found
