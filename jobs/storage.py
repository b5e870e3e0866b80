"""Job files in the data folder.

    <data_dir>/uploads/                 uploads in progress
    <data_dir>/resumable/               uploads over several requests (`jobs.resumable`)
    <data_dir>/estimates/               ends of files, for the time of an estimate (`service.estimating`)
    <data_dir>/jobs/<id>/input          the uploaded file
                         work-<token>/  checkpoint and segments of the worker with this fencing token
                         parts/         the same for each part that another worker computes (`jobs.parts`)
                         result.mp4     the published result (or .mkv, .mov, .webm)
                         figures.jsonl, skipmap.bin  published with the result (`jobs.figures`)

A worker takes a job over by renaming the working folder to its own token. The previous worker's paths then no longer
exist: its later writes and its publication fail. This fence needs no clock.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from jobs import record_file
from jobs.disk import open_regular, replace, room, size_of, size_of_file
from jobs.errors import NotFound, StorageFull, TooManyUploads
from jobs.retention import LONGEST_HOURS
from jobs.settings import Settings
from jobs.stored import Entry, LocalEntry, LocalFile, StoredFile

GB: Final = 1_000_000_000
_PARTS: Final = "parts"
_REMOVED: Final = ".removed-"
_ID: Final = re.compile(r"[0-9a-f]{16,64}")


class Fenced(Exception):
    """The job's files now belong to another worker. This error ends the worker's run and never reaches a user."""


def new_id() -> str:
    """Create a random job id of hexadecimal digits; nobody can guess the id, and it is safe in paths and URLs."""
    return secrets.token_hex(12)


def is_id(text: str) -> bool:
    """Whether a text is the id of a job or an upload, and safe in a path."""
    return _ID.fullmatch(text) is not None


def part_id(number: int) -> str:
    """Id of a part of a job in `Storage.parts`."""
    return f"{number:016x}"


class Storage:
    """All job files, in the data folder.

    Methods that read or change a job's files are the interface of every kind of storage. Uploads, reservations and
    working folders always lie in the data folder of this machine.

    Args:
        data_dir: the data folder.
        quota: upper limit in bytes for all job files; 0: no limit.
        min_free: bytes that must stay free on the disk.
        max_uploads: upper limit of this process's uploads at the same time; 0: no limit.
        max_open_uploads: upper limit of one owner's resumable uploads.
        upload_lifetime: seconds from a resumable upload's last change to its removal.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        quota: int = 0,
        min_free: int = 0,
        max_uploads: int = 0,
        max_open_uploads: int = 100,
        upload_lifetime: float = 86400.0,
    ) -> None:
        self.root = data_dir / "jobs"
        self.uploads = data_dir / "uploads"
        self.resumable = data_dir / "resumable"
        self.quota = quota
        self.min_free = min_free
        self.max_uploads = max_uploads
        self.max_open_uploads = max_open_uploads
        self.upload_lifetime = upload_lifetime
        self._reserved: dict[Path, int] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Create the storage of the settings."""
        return cls(settings.data_dir, **cls.limits(settings))

    @staticmethod
    def limits(settings: Settings) -> dict[str, Any]:
        """The arguments that limit uploads and sizes."""
        return {
            "quota": int(settings.quota_gb * GB),
            "min_free": int(settings.min_free_gb * GB),
            "max_uploads": settings.max_uploads,
            "max_open_uploads": settings.max_open_uploads,
            "upload_lifetime": min(settings.upload_ttl_hours, LONGEST_HOURS) * 3600,
        }

    def prepare(self) -> None:
        """Create the folders. Raises `StorageFull` if the disk is full or read-only."""
        with room(self.root):
            for folder in (self.root, self.uploads, self.resumable):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o700)  # also a folder of an earlier version
            probe = self.root / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()

    def job_dir(self, job_id: str) -> Path:
        """Folder of a job. Raises `NotFound` for a malformed id: no path leaves the data folder."""
        if not is_id(job_id):
            raise NotFound.job(job_id)
        return self.root / job_id

    def input_path(self, job_id: str) -> Path:
        """Path of the uploaded file."""
        return self.job_dir(job_id) / "input"

    def result_path(self, job_id: str) -> Path:
        """Path of the published result with its container's suffix; result.mp4 if no result exists."""
        folder = self.job_dir(job_id)
        return next(folder.glob("result.*"), folder / "result.mp4")

    def check(self) -> None:
        """Check that the job files can be reached. Raises StorageUnavailable."""

    def adopt(self, upload: Path, job_id: str) -> None:
        """Make a complete upload the input of a new job.

        Raises `StorageFull` if the disk is full or read-only; the upload then stays in place.
        """
        folder = self.job_dir(job_id)
        try:
            with room(self.root):
                folder.mkdir(parents=True)
                replace(upload, folder / "input")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def give_back(self, upload: Path, job_id: str) -> None:
        """Undo `adopt`: move the file back, and remove the job's folder."""
        with suppress(OSError):
            self.input_path(job_id).rename(upload)
        self.remove(job_id)

    # Files of a job, for readers

    def input(self, job_id: str) -> StoredFile | None:
        """The uploaded file; None if the file has been removed."""
        return LocalFile.existing(self.input_path(job_id))

    def result(self, job_id: str) -> StoredFile | None:
        """The published result; None without one."""
        return LocalFile.existing(self.result_path(job_id))

    def on_disk(self, job_id: str, stored: StoredFile) -> Path:
        """Path of a job's file for a decoder, which reads only files of this machine. Raises FileNotFoundError."""
        return self.job_dir(job_id) / stored.name

    def holds(self, job_id: str) -> bool:
        """Whether any file of a job exists."""
        return self.job_dir(job_id).exists()

    def survey(self) -> None:
        """Look at all jobs now. Later reads of this object may answer from what `entries` and `job_ids` saw last."""

    def job_ids(self) -> set[str]:
        """Ids of the jobs with files."""
        return {name for name in self.folders() if is_id(name)}

    def check_room(self, expected: int) -> None:
        """Raise `StorageFull` if `expected` more bytes exceed the quota or the free space.

        The message names the setting. Uploads in progress in this process count with their reserved size.
        """
        coming = self._outstanding()
        if self.quota and (used := self.used() + coming) + expected > self.quota:
            raise StorageFull(
                f"Job files use {_size(used)}; with {_size(expected)} more the total would exceed the quota of "
                f"{_size(self.quota)} (SKIPVSR_QUOTA_GB). Delete finished jobs, or try again later."
            )
        free = self.free() - coming
        if free - expected < self.min_free:
            raise StorageFull(
                f"The disk has {_size(max(0, free))} free; {_size(expected)} is needed, and {_size(self.min_free)} "
                "must stay free (SKIPVSR_MIN_FREE_GB). Free disk space, then try again."
            )

    def reserve(self, upload: Path, size: int) -> None:
        """Reserve disk space for an upload of `size` bytes in total; `end_reservation` must follow.

        Raises `StorageFull`; an earlier reservation for the same upload then stays in force. Raises `TooManyUploads`
        for a new upload beyond the limit.
        """
        with self._lock:
            if self.max_uploads and upload not in self._reserved and len(self._reserved) >= self.max_uploads:
                raise TooManyUploads(
                    f"{self.max_uploads} uploads are in progress (SKIPVSR_MAX_UPLOADS); send the file again later"
                )
            # The bytes that have arrived take their room already, also without a reservation.
            self.check_room(size - max(self._reserved.get(upload, 0), size_of_file(upload)))
            self._reserved[upload] = size

    def end_reservation(self, upload: Path) -> None:
        """End the reservation of an upload; from now on the file's real size counts."""
        with self._lock:
            self._reserved.pop(upload, None)

    def _outstanding(self) -> int:
        """Reserved bytes that have not arrived yet."""
        return sum(max(0, size - size_of_file(upload)) for upload, size in list(self._reserved.items()))

    def used(self) -> int:
        """Size of all job files and uploads in bytes."""
        return size_of(self.root) + size_of(self.uploads) + size_of(self.resumable)

    def free(self) -> int:
        """Free bytes on the disk of the data folder."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def last_token(self, job_id: str) -> int:
        """Highest token of a job's working folders; 0 if the job has no working folder."""
        return max((token for token, _ in self._work(job_id)), default=0)

    def take_work(self, job_id: str, token: int) -> Path:
        """Take the working folder over, with its checkpoint, for the worker with `token`; return the new path.

        Raises `Fenced` if a higher token has the folder, or the job's folder does not exist.
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

    def work(self, job_id: str, wanted: Sequence[str]) -> Path | None:
        """The working folder of the last worker; None without one. A takeover renames the folder at any time.

        `wanted` are patterns of the names that the caller needs; another file may be missing.
        """
        found = self._work(job_id)
        return found[-1][1] if found else None

    def _work(self, job_id: str) -> list[tuple[int, Path]]:
        """Working folders of a job with their tokens, sorted by token."""
        return sorted((int(p.name.removeprefix("work-")), p) for p in self.job_dir(job_id).glob("work-*"))

    def fetch_input(self, job_id: str) -> Path:
        """Path of the uploaded file on this machine, for the worker that has claimed the job.

        Raises JobFailed for a link, which could name any file. A missing file is no error here.
        """
        path = self.input_path(job_id)
        with suppress(FileNotFoundError), open_regular(path):
            pass
        return path

    def save(self, job_id: str, folder: Path) -> None:
        """Make a committed checkpoint of a working folder available to other workers. Raises `Fenced`.

        In the data folder, the commit alone does so.
        """

    def leave(self, job_id: str) -> None:
        """End the use of a job's files by the worker that has called `fetch_input` and `take_work`."""

    def parts(self, job_id: str) -> Storage:
        """The working folders of the parts of a job. Each folder has its `part_id`, like the folder of a job."""
        return Storage(self.job_dir(job_id) / _PARTS, min_free=self.min_free)

    def begin(self, job_id: str) -> None:
        """Let workers take the working folder of a job without an upload. Raises `Fenced` if the job is removed."""
        with room(self.root):
            try:
                for folder in (self.root.parent, self.root, self.job_dir(job_id)):  # never the folder of the whole job
                    folder.mkdir(exist_ok=True)
            except FileNotFoundError as error:
                raise Fenced(job_id) from error

    def remove_parts(self, job_id: str) -> None:
        """Remove the working folders of all parts of a job."""
        shutil.rmtree(self.job_dir(job_id) / _PARTS, ignore_errors=True)

    def publish(self, part: Path, job_id: str, also: Sequence[Path] = (), name: str = "") -> None:
        """Move a result from the working folder to the published files, and then the files of `also`.

        `name` is the result's name for downloads that do not pass the API.

        Raises `Fenced` if a file does not exist, and `JobFailed` if a file is no regular file.
        """
        for each in (part, *also):
            with room(self.root):
                try:
                    replace(each, self.job_dir(job_id) / each.name)
                except FileNotFoundError as error:
                    raise Fenced(job_id) from error

    def figures_folders(self, job_id: str) -> list[Path]:
        """Folders that may hold a job's figures: the job's folder, and the working folder with the highest token."""
        return [folder for folder in (self.job_dir(job_id), self.work(job_id, ())) if folder is not None]

    def remove_work(self, job_id: str, token: int | None = None) -> None:
        """Remove all working folders of a job and its parts, or only the folder of the worker with `token`."""
        if token is None:
            self.remove_parts(job_id)
        self._remove_folders(job_id, token)

    def _remove_folders(self, job_id: str, token: int | None = None) -> None:
        for work in self.job_dir(job_id).glob(f"work-{'*' if token is None else token}"):
            shutil.rmtree(work, ignore_errors=True)

    def remove(self, job_id: str) -> None:
        """Remove all files of a job; a job without files is no error.

        The rename before the removal invalidates all paths of a running worker in one step.
        """
        folder = self.job_dir(job_id)
        removed = self.root / f"{_REMOVED}{job_id}-{secrets.token_hex(4)}"
        try:
            folder.rename(removed)
        except OSError:
            removed = folder
        shutil.rmtree(removed, ignore_errors=True)

    def remove_file(self, job_id: str, stored: StoredFile) -> None:
        """Remove the uploaded file or the result of a job."""
        (self.job_dir(job_id) / stored.name).unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """All jobs with files, for the janitor."""
        return [LocalEntry(path, name) for name, path in self.folders().items() if not name.startswith(_REMOVED)]

    def leftovers(self) -> list[Entry]:
        """Uploads and other files of this machine without a job. Unchanged files are removed after some time."""
        uploads = list(self.uploads.iterdir()) if self.uploads.exists() else []
        removed = [path for name, path in self.folders().items() if name.startswith(_REMOVED)]
        return [LocalEntry(path) for path in (*uploads, *removed)]

    def folders(self) -> dict[str, Path]:
        """All folders by name: job ids, and remains of interrupted removals."""
        return {p.name: p for p in self.root.iterdir() if p.is_dir()} if self.root.exists() else {}

    # The record of a job, from which `jobs.records` lists the job again after a loss of Redis

    def write_record(
        self, job_id: str, text: str, *, through: Path | None = None, replaces: bytes | None = b""
    ) -> bool:
        """Write the record of a job atomically.

        Args:
            job_id: the job.
            text: the record.
            through: the working folder of a worker. A worker that has lost the folder cannot write the record.
            replaces: the record that the caller has read; None: no record; empty: any.

        Returns False if another record exists, or the job's files belong to another worker or have been removed.
        Raises OSError.
        """
        return record_file.write(self.job_dir(job_id), text, through=through, replaces=replaces)

    def read_record(self, job_id: str) -> bytes | None:
        """The record of a job; None for a missing record, a link, or a far too long record."""
        return record_file.read(self.job_dir(job_id))


def _size(count: int) -> str:
    return f"{count / GB:.2f} GB" if count >= GB / 10 else f"{count / 1e6:.2f} MB"
