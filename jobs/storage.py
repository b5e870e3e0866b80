"""The files of jobs, below one data folder.

    <data_dir>/uploads/                 uploads that are still coming in
    <data_dir>/jobs/<id>/input          the upload
                         work-<token>/  checkpoint and segments of the worker that holds this token
                         result.mp4     the result, once published; or .mkv, .mov, .webm

A worker takes over the work of another by renaming its folder to its own token. From that moment whatever the other
one still tries to create, commit or publish fails, for its paths are gone: that is the fence, and it needs no clock.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from jobs.errors import NotFound, StorageFull
from jobs.settings import Settings

GB: Final = 1_000_000_000
_ID: Final = re.compile(r"[0-9a-f]{16,64}")
_FULL: Final = {errno.ENOSPC: "is full", errno.EDQUOT: "is over its quota", errno.EROFS: "is read-only"}


class Fenced(Exception):
    """The job's files belong to another worker by now."""


def new_id() -> str:
    """A job's id: random, so that it can't be guessed, and harmless in a path or an address."""
    return secrets.token_hex(12)


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Turn "no space left", "over quota" and "read-only" into `StorageFull`, which says what to do."""
    try:
        yield
    except OSError as error:
        reason = _FULL.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageFull(
            f"The data folder {folder} {reason}. Make room or make it writable, then try again."
        ) from error


def sync_file(path: Path) -> None:
    """Make sure that a file's bytes are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(part: Path, final: Path) -> None:
    """Give a finished file its name: fsync, one rename, fsync of the folder. Nobody ever sees half of it."""
    sync_file(part)
    part.replace(final)
    sync_file(final.parent)


class Storage:
    """The folder of all jobs' files.

    `quota` is the most that they may take, and `min_free` what must be left on the disk, both in bytes; 0: no limit.
    """

    def __init__(self, data_dir: Path, *, quota: int = 0, min_free: int = 0) -> None:
        self.root = data_dir / "jobs"
        self.uploads = data_dir / "uploads"
        self.quota = quota
        self.min_free = min_free
        self._aside: dict[Path, int] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The data folder that the settings name, with their limits."""
        return cls(settings.data_dir, quota=int(settings.quota_gb * GB), min_free=int(settings.min_free_gb * GB))

    def prepare(self) -> None:
        """Make the folders; raises `StorageFull` if they can't be written to."""
        with room(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            self.uploads.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()

    def job_dir(self, job_id: str) -> Path:
        """The folder of a job. Raises `NotFound` for what can't be an id, so that no path escapes."""
        if not _ID.fullmatch(job_id):
            raise NotFound(f"There is no job {job_id!r}.")
        return self.root / job_id

    def input_path(self, job_id: str) -> Path:
        """Where the upload lies."""
        return self.job_dir(job_id) / "input"

    def result_path(self, job_id: str) -> Path:
        """Where the result lies, once it is published. Its suffix is its container's; result.mp4 if there is none."""
        folder = self.job_dir(job_id)
        return next(folder.glob("result.*"), folder / "result.mp4")

    def adopt(self, upload: Path, job_id: str) -> Path:
        """Make a file that was received whole (in `uploads`) the input of a job.

        Raises `StorageFull` if the disk is full or read-only; then nothing of the job is left, and the file stays.
        """
        folder = self.job_dir(job_id)
        try:
            with room(self.root):
                folder.mkdir(parents=True)
                replace(upload, folder / "input")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder / "input"

    def check_room(self, expected: int) -> None:
        """Raise `StorageFull`, naming the setting, if `expected` more bytes would break the quota or fill the disk.

        Uploads that this process is receiving count in full.
        """
        coming = self._coming()
        if self.quota and (used := self.used() + coming) + expected > self.quota:
            raise StorageFull(
                f"Jobs take {_size(used)}; with {_size(expected)} more they would be over the quota of "
                f"{_size(self.quota)} (SKIPVSR_QUOTA_GB). Delete jobs that are done, or try again later."
            )
        free = self.free() - coming
        if free - expected < self.min_free:
            raise StorageFull(
                f"The disk has {_size(max(0, free))} left, {_size(expected)} are needed and {_size(self.min_free)} "
                "must stay free (SKIPVSR_MIN_FREE_GB). Make room, then try again."
            )

    def set_aside(self, upload: Path, size: int) -> None:
        """Set room aside for an upload of `size` bytes, as far as that has not been done; `settle` must follow.

        Raises `StorageFull`; then what was set aside before stays so.
        """
        with self._lock:
            self.check_room(size - self._aside.get(upload, 0))
            self._aside[upload] = size

    def settle(self, upload: Path) -> None:
        """An upload has ended: what it takes counts as it is."""
        with self._lock:
            self._aside.pop(upload, None)

    def _coming(self) -> int:
        """Bytes that were set aside and are not there yet."""
        return sum(max(0, size - _size_of_file(upload)) for upload, size in list(self._aside.items()))

    def used(self) -> int:
        """Bytes that all jobs' files take."""
        return size_of(self.root) + size_of(self.uploads)

    def free(self) -> int:
        """Bytes left on the disk of the data folder."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def last_token(self, job_id: str) -> int:
        """The highest token that has taken the working folder of a job; 0 if none has."""
        return max((token for token, _ in self._work(job_id)), default=0)

    def take_work(self, job_id: str, token: int) -> Path:
        """The working folder of the holder of `token`, taken from whoever had it, with the checkpoint that is in it.

        Raises `Fenced` if a higher token has it already or the job's folder is gone.
        """
        mine = self.job_dir(job_id) / f"work-{token}"
        with room(self.root):
            try:
                found = self._work(job_id)
                if found and found[-1][0] > token:
                    raise Fenced(job_id)
                if found and found[-1][0] < token:
                    found[-1][1].rename(mine)
                elif not found:
                    mine.mkdir()
                for _, stale in found[:-1]:
                    shutil.rmtree(stale, ignore_errors=True)
            except FileNotFoundError as error:
                raise Fenced(job_id) from error
        return mine

    def _work(self, job_id: str) -> list[tuple[int, Path]]:
        """The working folders of a job with their tokens, the highest last."""
        return sorted((int(p.name.removeprefix("work-")), p) for p in self.job_dir(job_id).glob("work-*"))

    def publish(self, part: Path, job_id: str) -> Path:
        """Make a finished file, `result.<suffix>` in the working folder, the job's result.

        Raises `Fenced` if it is gone.
        """
        final = self.job_dir(job_id) / part.name
        with room(self.root):
            try:
                replace(part, final)
            except FileNotFoundError as error:
                raise Fenced(job_id) from error
        return final

    def remove_work(self, job_id: str) -> None:
        """Remove the working folders of a job, if there are any."""
        for work in self.job_dir(job_id).glob("work-*"):
            shutil.rmtree(work, ignore_errors=True)

    def remove(self, job_id: str) -> None:
        """Remove all files of a job. Never fails because there are none.

        The folder is renamed first: a worker that still writes there loses its paths at once, not file by file.
        """
        folder = self.job_dir(job_id)
        grave = self.root / f".removed-{job_id}-{secrets.token_hex(4)}"
        try:
            folder.rename(grave)
        except OSError:
            grave = folder
        shutil.rmtree(grave, ignore_errors=True)

    def folders(self) -> dict[str, Path]:
        """All folders here by name: jobs' ids, and the remains of removals that were cut short."""
        return {p.name: p for p in self.root.iterdir() if p.is_dir()} if self.root.exists() else {}


def _size(count: int) -> str:
    return f"{count / GB:.2f} GB" if count >= GB / 10 else f"{count / 1e6:.2f} MB"


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; files that vanish meanwhile count as nothing."""
    return sum(_size_of_file(Path(base) / name) for base, _, names in os.walk(folder) for name in names)


def _size_of_file(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
