"""Estimates for videos that have not been submitted: a file's ends, or an upload."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio.to_thread

from jobs.disk import room
from jobs.errors import InvalidRequest, NotFound, TooManyEstimates
from jobs.schema import JobOptions
from jobs.settings import Settings
from jobs.storage import new_id
from service.admission import Admissions, oversized
from service.estimates import Answer
from service.operations import Operations
from service.threads import in_threads

HEAD_BYTES: Final = 4 << 20
"""Most bytes of a file's beginning."""
TAIL_BYTES: Final = 16 << 20
"""Most bytes of a file's end, which may hold the header of an MP4."""
_PLACES: Final = 8
"""Most estimates at the same time: each may hold a file's ends in memory, and waits for a probe."""
_FOLDER: Final = "estimates"
_STALE_SECONDS: Final = 3600.0
"""Age of files that a killed process has left."""

Hole = tuple[int, int]


@dataclass(frozen=True)
class Ends:
    """The ends of a file that a client has, and the size of the whole file."""

    head: bytes
    tail: bytes
    size: int

    def checked(self, max_bytes: int) -> Ends:
        """Return the ends. Raises InvalidRequest if the bytes are no ends of a file, and TooLarge."""
        if not self.head:
            raise InvalidRequest("head: send the first bytes of the file, up to 4 MiB")
        for name, data, most in (("head", self.head, HEAD_BYTES), ("tail", self.tail, TAIL_BYTES)):
            if len(data) > most:
                raise InvalidRequest(f"{name}: {len(data):,} bytes are more than {most:,}")
        if self.size > max_bytes:
            raise oversized(max_bytes)
        if len(self.head) + len(self.tail) > self.size:
            raise InvalidRequest(
                f"size: head and tail have more than {self.size:,} bytes: send the whole size, and no byte twice"
            )
        return self

    @property
    def hole(self) -> Hole | None:
        """The bytes that are not there; None if the ends are the whole file."""
        begin, end = len(self.head), self.size - len(self.tail)
        return (begin, end) if begin < end else None


class Estimating:
    """Estimates of a server process, for callers of HTTP or gRPC."""

    def __init__(self, settings: Settings, admissions: Admissions) -> None:
        self._settings, self._admissions = settings, admissions
        self._used = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for an estimate during the block. Raises TooManyEstimates if there is none."""
        if self._used >= _PLACES:
            raise TooManyEstimates(f"{_PLACES} estimates are in progress; ask again in some seconds")
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1

    async def of_ends(self, operations: Operations, options: JobOptions, ends: Ends) -> Answer:
        """Estimate a job for a file of which the ends are known.

        Raises the errors of an upload, and HeaderNotSent if the ends do not suffice.
        """
        ends.checked(self._settings.max_upload_bytes)
        async with in_threads(_sparse(operations, ends)) as path:
            return await self._answer(operations, options, path, ends.hole)

    async def of_upload(self, operations: Operations, options: JobOptions, upload_id: str) -> Answer:
        """Estimate a job for a resumable upload, of which bytes may be missing."""
        upload, path = await anyio.to_thread.run_sync(operations.resumable.peek, upload_id)
        try:
            arrived = await anyio.to_thread.run_sync(lambda: path.stat().st_size)
            missing = (arrived, upload.length) if arrived < upload.length else None
            return await self._answer(operations, options, path, missing)
        except FileNotFoundError:
            raise NotFound(f"The upload {upload_id} has just become a job, or was removed.") from None

    async def _answer(self, operations: Operations, options: JobOptions, path: Path, hole: Hole | None) -> Answer:
        await anyio.to_thread.run_sync(operations.check_model, options.model)
        scale = await anyio.to_thread.run_sync(operations.scale_of, options.model)
        admission = await self._admissions.admit(path, options, scale, hole)
        return await anyio.to_thread.run_sync(operations.estimates.answer, admission)


@contextmanager
def _sparse(operations: Operations, ends: Ends) -> Iterator[Path]:
    """A sparse file with the ends, during the block.

    The file lies beside the uploads: its size, most of which takes no room on the disk, must not count for the quota.
    """
    storage = operations.storage
    storage.check_room(len(ends.head) + len(ends.tail))
    folder = storage.uploads.with_name(_FOLDER)
    path = folder / new_id()
    try:
        with room(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_stale(folder)
            with path.open("xb") as file:
                file.truncate(ends.size)
                file.write(ends.head)
                file.seek(ends.size - len(ends.tail))
                file.write(ends.tail)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    for path in folder.iterdir():
        try:
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
        except OSError:  # another process was faster
            continue
