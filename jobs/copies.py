"""Copies of files of a bucket, for readers that need a path: previews and figures.

    <data_dir>/cache/<id>/<fingerprint>         the content of a file
                          <fingerprint>.folder/ hard links to such files, under their names

The least recently used jobs' copies are removed beyond the limit. A new copy replaces copies of the same job that
nobody has used for a minute, since a running job's files change with each chunk. `jobs.upkeep` removes the rest.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from jobs.disk import room, size_of
from jobs.errors import StorageFull
from jobs.ledger import Filed
from jobs.pieces import Pieces
from jobs.stored import Entry, LocalEntry
from jobs.stored_object import fingerprint

_KEPT_SECONDS: Final = 60.0


class Copies:
    """The copies in a folder, which several processes may share.

    Args:
        root: the folder.
        pieces: the pieces in the bucket.
        most: upper limit in bytes.
    """

    def __init__(self, root: Path, pieces: Pieces, most: int) -> None:
        self._root, self._pieces, self._most = root, pieces, most

    def file(self, job_id: str, filed: Filed) -> Path:
        """A copy of a file. Raises FileNotFoundError, StorageFull and StorageUnavailable."""
        folder = self._enter(job_id, filed.size)
        path = folder / fingerprint(filed)
        if not _used(path):
            _prune(folder)
            part = folder / f".{secrets.token_hex(8)}"
            try:
                self._pieces.fetch(job_id, filed, part)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return path

    def folder(self, job_id: str, files: Mapping[str, Filed]) -> Path:
        """A folder with copies of files under their names."""
        home = self._enter(job_id, sum(filed.size for filed in files.values()))
        folder = home / f"{fingerprint(*files.values())}.folder"
        if not _used(folder):
            part = home / f".{secrets.token_hex(8)}"
            part.mkdir()
            try:
                for name, filed in files.items():
                    os.link(self.file(job_id, filed), part / name)
                with suppress(OSError):  # another thread was faster
                    part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            _prune(home)
        return folder

    def forget(self, job_id: str) -> None:
        """Remove the copies of a job's files."""
        shutil.rmtree(self._root / job_id, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """The copies of each job."""
        found = list(self._root.iterdir()) if self._root.exists() else []
        return [LocalEntry(path, name=f"copies of {path.name}") for path in found]

    def _enter(self, job_id: str, size: int) -> Path:
        """The folder of a job, with room for `size` bytes. Removes other jobs' copies as needed."""
        if size > self._most:
            raise StorageFull(f"A copy of the file takes {size / 1e9:.2f} GB: raise SKIPVSR_CACHE_GB on the server.")
        folder = self._root / job_id
        with room(self._root):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.utime(folder)
        self._evict(folder, size)
        return folder

    def _evict(self, current: Path, coming: int) -> None:
        used = {path: _used_at(path) for path in self._root.iterdir() if path != current}
        total = size_of(self._root) + coming
        for path in sorted(used, key=used.__getitem__):
            if total <= self._most:
                return
            total -= size_of(path)
            shutil.rmtree(path, ignore_errors=True)


def _used(path: Path) -> bool:
    """Take note that a copy is used; return False if the copy does not exist. Its time of change stays."""
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _used_at(path: Path) -> float:
    try:
        found = path.stat()
        return max(found.st_atime, found.st_mtime)
    except FileNotFoundError:
        return 0.0


def _prune(home: Path) -> None:
    """Remove the copies of a job that nobody has used for a while."""
    for path in home.iterdir():
        if time.time() - _used_at(path) > _KEPT_SECONDS:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
