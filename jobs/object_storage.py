"""Job files in a bucket of an S3-compatible store (`jobs.ledger`), with the data folder as scratch.

    <data_dir>/uploads/, resumable/, estimates/   as in `jobs.storage`
    <data_dir>/jobs/<id>/input                    the uploaded file, while a worker of this machine has the job
                         work-<token>/            the working folder
                         .lock                    held by every worker that uses the folder
    <data_dir>/cache/<id>/                        copies for previews and figures (`jobs.copies`)

A commit of a checkpoint ends on the disk; `save` then brings the checkpoint to the bucket.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

from jobs.bucket import Bucket
from jobs.bucket_folder import BucketFolder
from jobs.copies import Copies
from jobs.disk import open_regular, room
from jobs.errors import JobFailed, StorageUnavailable
from jobs.figures import FILES as FIGURES
from jobs.ledger import Filed, Ledger, Ledgers, files_of
from jobs.pieces import Pieces
from jobs.scratch import ScratchEntry, ScratchLocks
from jobs.settings import Settings
from jobs.storage import Fenced, Storage, is_id
from jobs.stored import Entry, LocalEntry, StoredFile
from jobs.stored_object import StoredObject
from jobs.working_files import WorkingFiles

_INPUT: Final = "input"
_RESULT: Final = re.compile(r"result\.[a-z0-9]+")
_PARTS: Final = "parts"
_AT_ONCE: Final = 4
"""Files sent or fetched at the same time."""
_TRIES: Final = 3
"""Attempts at copies of files that a worker replaces meanwhile."""


class ObjectStorage(Storage):
    """All job files, in a bucket. Every method may raise StorageUnavailable.

    Args:
        data_dir: the data folder, for scratch.
        bucket: the bucket.
        cache_bytes: upper limit of the copies for previews and figures.
        limits: further arguments of `Storage`. The quota counts the scratch files only.
    """

    def __init__(self, data_dir: Path, bucket: Bucket, *, cache_bytes: int = 0, **limits: Any) -> None:
        super().__init__(data_dir, **limits)
        self._bucket, self._ledgers, self._pieces = bucket, Ledgers(bucket), Pieces(bucket)
        self._copies = Copies(data_dir / "cache", self._pieces, cache_bytes)
        self._works: dict[str, WorkingFiles] = {}
        self._scratch = ScratchLocks()

    @classmethod
    def from_settings(cls, settings: Settings) -> ObjectStorage:
        """Create the storage of the settings, without a request. Raises InvalidRequest."""
        return cls(
            settings.data_dir,
            Bucket.from_settings(settings),
            cache_bytes=int(settings.cache_gb * 1e9),
            **cls.limits(settings),
        )

    def check(self) -> None:
        """Ask the bucket for an object. Raises StorageUnavailable."""
        with suppress(FileNotFoundError):
            self._bucket.get("check/none")

    # The upload becomes the job's input

    def adopt(self, upload: Path, job_id: str) -> None:
        """Send a complete upload to the bucket; the file on the disk stays."""
        self.job_dir(job_id)
        open_regular(upload).close()
        filed = self._pieces.send(job_id, upload, _INPUT)
        if not self._ledgers.create(job_id, Ledger(files={_INPUT: filed})):
            # An earlier try of this upload, which lost Redis before the job was known.
            self._pieces.drop(job_id, self._ledgers.change(job_id, lambda ledger: ledger.files.update({_INPUT: filed})))

    def give_back(self, upload: Path, job_id: str) -> None:
        """Undo `adopt`."""
        with suppress(StorageUnavailable):  # the janitor removes the files
            self.remove(job_id)

    # Files of a job, for readers

    def input(self, job_id: str) -> StoredFile | None:
        """The uploaded file; None if the file has been removed."""
        self.job_dir(job_id)
        return self._stored(job_id, lambda name: name == _INPUT)

    def result(self, job_id: str) -> StoredFile | None:
        """The published result; None without one."""
        self.job_dir(job_id)
        return self._stored(job_id, lambda name: _RESULT.fullmatch(name) is not None)

    def _stored(self, job_id: str, wanted: Callable[[str], bool]) -> StoredObject | None:
        ledger = self._ledgers.read(job_id) or Ledger()
        found = next((name for name in ledger.files if wanted(name)), None)
        return StoredObject(found, self._bucket, job_id, ledger.files[found]) if found is not None else None

    def on_disk(self, job_id: str, stored: StoredFile) -> Path:
        """Path of a copy. Raises FileNotFoundError, and StorageFull for a file that is larger than the cache."""
        assert isinstance(stored, StoredObject)
        return self._copies.file(job_id, stored.filed)

    def holds(self, job_id: str) -> bool:
        """Whether the job has a ledger."""
        self.job_dir(job_id)
        return self._ledgers.exists(job_id)

    def survey(self) -> None:
        """List all ledgers; from now on this object reads a ledger again only if the ledger has changed."""
        self._ledgers.survey()

    def job_ids(self) -> set[str]:
        """Ids of the jobs with a ledger."""
        return set(self._ledgers.list())

    def work(self, job_id: str, wanted: Sequence[str]) -> Path | None:
        """A folder with copies of files of the last checkpoint; None without a checkpoint."""
        found = self._copied(job_id, lambda ledger: [_named(ledger.work, wanted)])
        return found[0] if found else None

    def figures_folders(self, job_id: str) -> list[Path]:
        """Folders with copies of the job's figures."""
        return self._copied(job_id, lambda ledger: [_named(ledger.files, FIGURES), _named(ledger.work, FIGURES)])

    def _copied(self, job_id: str, pick: Callable[[Ledger], list[dict[str, Filed]]]) -> list[Path]:
        """Folders with copies of groups of files. A worker may replace the files meanwhile."""
        self.job_dir(job_id)
        for _ in range(_TRIES):
            groups = pick(self._ledgers.read(job_id) or Ledger())
            with suppress(FileNotFoundError):
                return [self._copies.folder(job_id, group) for group in groups if group]
        return []

    # The worker's files

    def last_token(self, job_id: str) -> int:
        """Token of the last worker; 0 without one."""
        self.job_dir(job_id)
        ledger = self._ledgers.read(job_id)
        return ledger.token if ledger is not None else 0

    def fetch_input(self, job_id: str) -> Path:
        """Fetch the uploaded file, unless this machine has the file already. Raises StorageFull."""
        path = self.input_path(job_id)
        self._scratch.enter(self.job_dir(job_id))
        filed = (self._ledgers.read(job_id) or Ledger()).files.get(_INPUT)
        if filed is not None and not (path.exists() and path.stat().st_size == filed.size):
            self.check_room(filed.size)
            part = path.with_name(f".{_INPUT}-{secrets.token_hex(4)}")
            try:
                self._pieces.fetch(job_id, filed, part)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return path

    def take_work(self, job_id: str, token: int) -> Path:
        """Take the job over for the worker with `token`, and fetch the files of the last checkpoint."""
        folder = self.job_dir(job_id) / f"work-{token}"
        self._scratch.enter(self.job_dir(job_id))

        def take(ledger: Ledger) -> bool | None:
            if ledger.token > token:
                raise Fenced(job_id)
            ledger.token = token
            return None

        self._ledgers.change(job_id, take)
        ledger = self._ledgers.read(job_id)
        if ledger is None or ledger.token != token:
            raise Fenced(job_id)
        self.check_room(sum(filed.size for filed in ledger.work.values()))
        self._remove_folders(job_id)  # of earlier workers of this machine
        with room(self.root):
            folder.mkdir()
        _all(lambda item: self._pieces.fetch(job_id, item[1], folder / item[0]), ledger.work.items())
        self._works[job_id] = WorkingFiles(folder, ledger.work)
        return folder

    def parts(self, job_id: str) -> Storage:
        """The working folders of the parts of a job. The parts' objects lie below the job's objects."""
        bucket = BucketFolder(self._bucket, f"{files_of(job_id)}{_PARTS}/")
        return ObjectStorage(self.job_dir(job_id) / _PARTS, bucket, min_free=self.min_free)

    def begin(self, job_id: str) -> None:
        """Let workers take the working folder of a job without an upload."""
        self._ledgers.create(job_id, Ledger())

    def remove_parts(self, job_id: str) -> None:
        """Remove the working folders of all parts of a job."""
        self._bucket.delete(*(found.key for found in self._bucket.objects(f"{files_of(job_id)}{_PARTS}/")))
        super().remove_parts(job_id)

    def save(self, job_id: str, folder: Path) -> None:
        """Send new files and the added ends of grown files, then write the ledger. Raises Fenced."""
        files, token = self._works[job_id], _token(folder)
        changes = files.changes()
        pieces = _all(lambda change: self._pieces.send_change(job_id, change), changes)
        work = files.merged(zip(changes, pieces, strict=True), time.time())
        sent = [piece.key for piece in pieces]
        self._commit(job_id, lambda ledger: setattr(ledger, "work", work), sent, token)
        files.saved(work)

    def publish(self, part: Path, job_id: str, also: Sequence[Path] = (), name: str = "") -> None:
        """Send finished files, and publish all in one step. Raises Fenced."""
        parts = (part, *also)
        for each in parts:
            if each.is_symlink() or not each.is_file():
                if not each.parent.exists():
                    raise Fenced(job_id)
                raise JobFailed(f"The job's file {each.name} is a link or no regular file.")
        title = name or part.name

        def send(each: Path) -> tuple[str, Filed]:
            return each.name, self._pieces.send(job_id, each, each.name, title if each is part else "")

        sent = _all(send, parts)

        def enter(ledger: Ledger) -> None:
            ledger.files = {name: kept for name, kept in ledger.files.items() if not _RESULT.fullmatch(name)}
            ledger.files.update(sent)

        self._commit(job_id, enter, [piece.key for _, filed in sent for piece in filed.pieces], _token(part.parent))

    def _commit(self, job_id: str, edit: Callable[[Ledger], None], sent: Iterable[str], token: int) -> None:
        """Enter pieces that have been sent into the ledger; a worker that has lost the job takes the pieces back."""
        try:
            dropped = self._ledgers.change(job_id, edit, token=token)
        except Fenced:
            # A write whose answer was lost counts all the same, and the next worker builds on it.
            with suppress(StorageUnavailable):
                self._pieces.drop(job_id, set(sent) - (self._ledgers.read(job_id) or Ledger()).pieces())
            raise
        self._pieces.drop(job_id, dropped)

    def leave(self, job_id: str) -> None:
        """Let the janitor of this machine remove the scratch files some time after the end of an attempt."""
        self._works.pop(job_id, None)
        self._ledgers.leave(job_id)
        self._scratch.leave(self.job_dir(job_id))

    def remove_work(self, job_id: str, token: int | None = None) -> None:
        """Remove the working files; with a token, only those of the worker with this token."""
        ledger = self._ledgers.read(job_id)
        if self._ledgers.surveying and not (ledger is not None and ledger.work):
            return
        # Before the change, which proves that no other worker has sent any of these objects.
        found = [each.key for each in self._bucket.objects(files_of(job_id))]
        kept: set[str] = set()

        def clear(ledger: Ledger) -> None:
            ledger.work.clear()
            kept.clear()
            kept.update(files_of(job_id) + key for key in ledger.pieces())

        with suppress(Fenced):
            self._ledgers.change(job_id, clear, token=token)
            self._bucket.delete(*(key for key in found if key not in kept))
        if token is None:
            shutil.rmtree(self.job_dir(job_id), ignore_errors=True)
        super().remove_work(job_id, token)

    def remove(self, job_id: str) -> None:
        """Remove all files of a job. Without its ledger, no worker can write to the job any more."""
        folder = self.job_dir(job_id)
        self._ledgers.remove(job_id)
        self._bucket.delete(*(found.key for found in self._bucket.objects(files_of(job_id))))
        shutil.rmtree(folder, ignore_errors=True)
        self._copies.forget(job_id)

    def remove_file(self, job_id: str, stored: StoredFile) -> None:
        """Remove the uploaded file or the result of a job."""

        def take_out(ledger: Ledger) -> bool:
            return ledger.files.pop(stored.name, None) is not None

        with suppress(Fenced):
            self._pieces.drop(job_id, self._ledgers.change(job_id, take_out))

    def entries(self) -> list[Entry]:
        """The jobs with files in the bucket."""
        listed = self._ledgers.list()
        bare = [name for name in self._bucket.folders("files/") if is_id(name) and name not in listed]
        return [
            *(_ObjectEntry(self, job_id, found.modified) for job_id, found in listed.items()),
            *(_ObjectEntry(self, job_id, None) for job_id in bare),
        ]

    def leftovers(self) -> list[Entry]:
        """Uploads, scratch folders and copies of this machine."""
        uploads = list(self.uploads.iterdir()) if self.uploads.exists() else []
        return [*map(LocalEntry, uploads), *map(ScratchEntry, self.folders().values()), *self._copies.entries()]

    def newest(self, job_id: str) -> float:
        """Time of the last write of a job's files."""
        return max((found.modified for found in self._bucket.objects(files_of(job_id))), default=0.0)

    # The record

    def write_record(
        self, job_id: str, text: str, *, through: Path | None = None, replaces: bytes | None = b""
    ) -> bool:
        """Write the record of a job into its ledger."""
        written = False

        def enter(ledger: Ledger) -> bool:
            nonlocal written
            current = ledger.record.encode() if ledger.record is not None else None
            written = replaces in (b"", current)
            if written:
                ledger.record = text
            return written

        try:
            self._ledgers.change(job_id, enter, token=None if through is None else _token(through))
        except Fenced:
            return False
        return written

    def read_record(self, job_id: str) -> bytes | None:
        """The record of a job; None without one."""
        ledger = self._ledgers.read(job_id) if is_id(job_id) else None
        return ledger.record.encode() if ledger is not None and ledger.record is not None else None


class _ObjectEntry(Entry):
    """All files of a job in the bucket."""

    def __init__(self, storage: ObjectStorage, job_id: str, modified: float | None) -> None:
        super().__init__(f"{job_id} in the bucket", job_id)
        self._storage, self._modified = storage, modified

    def changed(self) -> float:
        """Time of the ledger's last write, or of the files' without a ledger."""
        return self._storage.newest(self.job_id) if self._modified is None else self._modified

    def results(self) -> list[float]:
        """Time of the result."""
        result = self._storage.result(self.job_id)
        return [] if result is None else [result.modified]

    def remove(self) -> None:
        """Remove ledger and files."""
        self._storage.remove(self.job_id)


def _named(files: Mapping[str, Filed], patterns: Iterable[str]) -> dict[str, Filed]:
    """The files with a name that matches a pattern."""
    return {name: filed for name, filed in files.items() if any(fnmatch(name, pattern) for pattern in patterns)}


def _token(folder: Path) -> int:
    return int(folder.name.removeprefix("work-"))


def _all(do: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Do something for all items, some at the same time; raise the first error."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(do, items))
