"""Files on a disk: atomic renames, refused links, errors of a full disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from jobs.errors import JobFailed, StorageFull

_LINK: Final = (errno.ELOOP, errno.ENOTDIR, errno.ENXIO)
"""Error numbers of `open` for symbolic links and sockets."""
NO_ROOM: Final = {errno.ENOSPC: "is full", errno.EDQUOT: "is over its quota", errno.EROFS: "is read-only"}
"""Reason for each error number that means a disk accepts no data."""


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Raise "no space left", "over quota" and "read-only" errors in the block as `StorageFull`."""
    try:
        yield
    except OSError as error:
        reason = NO_ROOM.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageFull(
            f"The data folder {folder} {reason}. Free disk space or make the folder writable, then try again."
        ) from error


def sync_file(path: Path) -> None:
    """Flush a file or folder to the disk (fsync)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_regular(path: Path) -> BinaryIO:
    """Open a job's file for reading.

    Raises:
        FileNotFoundError: no such file.
        JobFailed: the file or its folder is a symbolic link, or the file is no regular file. Such a file could name
            any file of this machine.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder = os.open(path.parent, flags | os.O_DIRECTORY)
        try:
            file = os.open(path.name, flags | os.O_NONBLOCK, dir_fd=folder)  # a pipe would wait for a writer
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in _LINK:
            raise _irregular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _irregular(path)
    return os.fdopen(file, "rb")


def _irregular(path: Path) -> JobFailed:
    return JobFailed(f"The job's file {path.name} is a link or no regular file, so the service refuses the file.")


def replace(part: Path, final: Path) -> None:
    """Rename a finished file atomically: fsync, one rename, fsync of the folder. Readers never see a partial file.

    Raises JobFailed if `part` is no regular file.
    """
    with open_regular(part) as file:
        os.fsync(file.fileno())
    part.replace(final)
    sync_file(final.parent)


def size_of(folder: Path) -> int:
    """Size in bytes of all files below a folder; a file that vanishes during the count adds nothing."""
    return sum(size_of_file(Path(base) / name) for base, _, names in os.walk(folder) for name in names)


def size_of_file(path: Path) -> int:
    """Size of a file in bytes; 0 for a file that has vanished."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
