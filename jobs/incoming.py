"""A file that is coming in, with room set aside for it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from jobs.errors import StorageFull
from jobs.storage import Storage

_STEP_BYTES: Final = 8 << 20
"""Room that is asked for at a time where more comes than was announced."""


class Incoming:
    """An upload at `path`, of `announced` bytes if that is known, else 0. To be closed, in any case.

    Room for what was announced is set aside before the first byte, and for more as it comes: uploads that come in at
    once are not promised the same room, and one that does not say how long it is gets no more than there is.

    Raises `StorageFull` where there is no room, here and in `write`.
    """

    def __init__(self, storage: Storage, path: Path, announced: int) -> None:
        self.path, self.size = path, 0
        self._storage, self._room = storage, announced
        self._lock = threading.Lock()  # a write may go on in its thread while the request that wanted it ends
        storage.set_aside(path, announced)
        try:
            self._file = path.open("xb", buffering=0)
        except BaseException:
            storage.settle(path)
            raise

    def write(self, data: bytes) -> None:
        """Append bytes."""
        with self._lock:
            if self._file.closed:
                raise ValueError("the upload has ended")
            self.size += len(data)
            if self.size > self._room:
                self._make_room()
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """End it; closing twice is fine."""
        with self._lock:
            try:
                self._file.close()
            finally:
                self._storage.settle(self.path)

    def _make_room(self) -> None:
        """Ask for some more than there is, so as not to ask each time; or else for just that."""
        try:
            self._storage.set_aside(self.path, self.size + _STEP_BYTES)
            self._room = self.size + _STEP_BYTES
        except StorageFull:
            self._storage.set_aside(self.path, self.size)
            self._room = self.size
