"""An upload in progress, with disk space reserved."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Final

from jobs.errors import StorageFull
from jobs.storage import Storage

_STEP_BYTES: Final = 8 << 20
"""Disk space reserved at a time. An upload with an announced size reserves as much again as has arrived, if more."""


class Incoming:
    """A file that receives an upload. The caller must call `close`.

    The constructor refuses an announced size larger than the free space, but reserves only a step: announcements cost a
    client nothing. `write` reserves more space as bytes arrive: concurrent uploads never share the same free space. The
    constructor and `write` raise `StorageFull`; the constructor raises `TooManyUploads`.

    Args:
        storage: the data folder.
        path: the new file.
        announced: size in bytes; 0 if unknown.
        count: called with the number of bytes before each write; an error of the function refuses the bytes.
        file: the unbuffered file at `path`, which receives further bytes; None: the file is created.
    """

    def __init__(
        self,
        storage: Storage,
        path: Path,
        announced: int,
        count: Callable[[int], None] | None = None,
        file: FileIO | None = None,
    ) -> None:
        self.path, self.size = path, 0 if file is None else file.seek(0, os.SEEK_END)
        self._storage, self._announced, self._count = storage, announced, count
        self._reserved = min(announced, self.size + _STEP_BYTES)
        self._lock = threading.Lock()  # a write may continue in its thread after its request has ended
        storage.check_room(max(0, announced - self.size))
        storage.reserve(path, self._reserved)
        try:
            self._file = path.open("xb", buffering=0) if file is None else file
        except BaseException:
            storage.end_reservation(path)
            raise

    def write(self, data: bytes | bytearray) -> None:
        """Append bytes. Raises ValueError after `close`."""
        with self._lock:
            if self._file.closed:
                raise ValueError("the upload has ended")
            if self._count is not None:
                self._count(len(data))
            self.size += len(data)
            if self.size > self._reserved:
                self._reserve_more()
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Close the file and end the reservation; a second call has no effect."""
        with self._lock:
            try:
                self._file.close()
            finally:
                self._storage.end_reservation(self.path)

    def _reserve_more(self) -> None:
        """Reserve a step beyond the current size, or only the current size if the disk has no room for a step."""
        goal = self.size + _STEP_BYTES
        if self._announced:
            goal = max(self.size, min(self.size + max(self.size, _STEP_BYTES), self._announced))
        try:
            self._storage.reserve(self.path, goal)
            self._reserved = goal
        except StorageFull:
            self._storage.reserve(self.path, self.size)
            self._reserved = self.size
