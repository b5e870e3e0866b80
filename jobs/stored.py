"""Files of jobs as readers and the janitor see the files, wherever the files lie."""

from __future__ import annotations

import asyncio
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final, Self

from jobs.disk import open_regular

_BLOCK_BYTES: Final = 256 * 1024


class OpenedFile(ABC):
    """An open file of a job. A removal or a new file in its place changes nothing for the reader."""

    size: int

    @abstractmethod
    def blocks(self, first: int, end: int) -> AsyncGenerator[bytes]:
        """Yield the bytes from number `first` to before number `end`, in blocks."""


class StoredFile(ABC):
    """An uploaded file or a published result."""

    def __init__(self, name: str) -> None:
        self.name = name
        """Name in the job's folder: `input`, or `result` with the suffix of its container."""

    @property
    @abstractmethod
    def modified(self) -> float:
        """Time of the last change in seconds since 1970. Raises FileNotFoundError."""

    @property
    def regular(self) -> bool:
        """Whether the file is no link."""
        return True

    @property
    @abstractmethod
    def size(self) -> int:
        """Size in bytes. Raises FileNotFoundError."""

    @property
    @abstractmethod
    def etag(self) -> str:
        """A strong entity tag of the version, with its quotes. Raises FileNotFoundError."""

    def address(self, seconds: float) -> str | None:
        """A URL with which anybody can read the file for some seconds; None if only the service reads the file."""
        return None

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[OpenedFile]:
        """Open the file during the block. Raises FileNotFoundError for a removed file, and JobFailed for a link."""


class _OpenedLocalFile(OpenedFile):
    def __init__(self, file: BinaryIO) -> None:
        self.size = os.fstat(file.fileno()).st_size
        self._file = file

    async def blocks(self, first: int, end: int) -> AsyncGenerator[bytes]:
        await asyncio.to_thread(self._file.seek, first)
        while first < end and (data := await asyncio.to_thread(self._file.read, min(_BLOCK_BYTES, end - first))):
            first += len(data)
            yield data


class LocalFile(StoredFile):
    """A file in the data folder."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.name)
        self.path = path

    @classmethod
    def existing(cls, path: Path) -> Self | None:
        """The file at a path; None without one. A link counts as a file, and is refused when it is opened."""
        return cls(path) if path.exists() else None

    @property
    def modified(self) -> float:
        """Time of the last change of the file, or of the link in its place."""
        return self.path.lstat().st_mtime

    @property
    def regular(self) -> bool:
        """Whether the file is a regular file, and no link."""
        return self.path.is_file() and not self.path.is_symlink()

    @property
    def size(self) -> int:
        """Size of the file, or of the link in its place."""
        return self.path.lstat().st_size

    @property
    def etag(self) -> str:
        """A tag from inode, size and time of the last change."""
        found = self.path.lstat()
        return f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[OpenedFile]:
        """Open the file during the block."""
        file = await asyncio.to_thread(open_regular, self.path)
        try:
            yield _OpenedLocalFile(file)
        finally:
            await asyncio.to_thread(file.close)


class Entry(ABC):
    """An upload, or all files of a job: what the janitor may find abandoned.

    Args:
        name: a name for the log, which no other entry has.
        job_id: the job; empty for files of this machine.
    """

    def __init__(self, name: str, job_id: str) -> None:
        self.name, self.job_id = name, job_id

    @abstractmethod
    def changed(self) -> float:
        """Newest time of a change. The clock may be another machine's: compare with earlier values only."""

    @abstractmethod
    def results(self) -> list[float]:
        """Times of the published results."""

    @abstractmethod
    def remove(self) -> None:
        """Remove everything."""


class LocalEntry(Entry):
    """An upload or a job's folder in the data folder."""

    def __init__(self, path: Path, job_id: str = "", name: str = "") -> None:
        super().__init__(name or path.name, job_id)
        self.path = path

    def changed(self) -> float:
        """Newest modification time at or below the path."""
        entries = [self.path, *self.path.rglob("*")] if self.path.is_dir() else [self.path]
        return max((_modified(entry) for entry in entries), default=0.0)

    def results(self) -> list[float]:
        """Modification times of the results, also of links in their place."""
        return [found for path in self.path.glob("result.*") if (found := _modified(path, follow=False))]

    def remove(self) -> None:
        """Remove the file or the folder."""
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def _modified(path: Path, *, follow: bool = True) -> float:
    """Modification time of a path; 0 if the path has vanished."""
    try:
        return path.stat(follow_symlinks=follow).st_mtime
    except FileNotFoundError:
        return 0.0
