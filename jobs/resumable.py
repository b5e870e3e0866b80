"""Resumable uploads: files that grow over several requests, restarts and crashes.

    <data_dir>/resumable/<owner>/<id>        the bytes that have arrived; the size of this file is the offset
                                 <id>.json   the upload's document; the upload exists while this file exists
                                 <id>.stop   another request waits for the bytes
                                 .lock       held while an upload is created

The owner is the id of an API key; `open` stands for the administrator's key, and for servers without keys. The id
becomes the job's id. Every reader and writer holds a lock on the upload's bytes (flock): several processes may share
the folder. The kernel frees the lock of a dead process.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.disk import room, sync_file
from jobs.errors import Gone, LimitReached, NotFound, NotReady, UploadBusy
from jobs.storage import Storage, is_id, new_id

_OPEN_OWNER: Final = "open"
_RETRY_SECONDS: Final = 60
"""Advice to a client with too many uploads: nobody knows when an upload ends."""


class Upload(BaseModel):
    """The document of an upload."""

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    length: int
    """Size of the complete file in bytes."""
    filename: str
    metadata: str = ""
    """The client's metadata as sent."""
    checked: int | None = None
    """Bytes before a chunk whose checksum is not verified yet; None: all bytes count."""


class OpenUpload:
    """An upload under its lock.

    Args:
        upload: the document.
        path: the bytes.
        file: the bytes, opened for reading and writing.
        lifetime: seconds from the last change to the expiry.
    """

    def __init__(self, upload: Upload, path: Path, file: FileIO, lifetime: float) -> None:
        self.upload, self.path, self.file = upload, path, file
        self._lifetime = lifetime
        if upload.checked is not None:  # the process died during a chunk with a checksum
            self.discard(upload.checked)

    @property
    def offset(self) -> int:
        """Number of bytes that have arrived."""
        return os.fstat(self.file.fileno()).st_size

    @property
    def complete(self) -> bool:
        """Whether all bytes have arrived."""
        return self.offset == self.upload.length

    @property
    def expires(self) -> datetime:
        """Time when the upload is removed, unless further bytes arrive."""
        return datetime.fromtimestamp(os.fstat(self.file.fileno()).st_mtime + self._lifetime, UTC)

    def begin_check(self) -> None:
        """Distrust all further bytes until `accept` or `discard`; a crash discards them."""
        self._set_checked(self.offset)

    def accept(self) -> None:
        """Flush the bytes to the disk, and trust them."""
        with room(self.path.parent):
            os.fdatasync(self.file.fileno())
        if self.upload.checked is not None:
            self._set_checked(None)

    def discard(self, size: int) -> None:
        """Drop all bytes after the first `size` bytes."""
        self.file.truncate(size)
        self.file.seek(0, os.SEEK_END)
        self._set_checked(None)

    def asked_to_stop(self) -> bool:
        """Whether another request waits for the bytes."""
        return _stop(self.path).exists()

    def forget(self) -> None:
        """Remove the document: the upload no longer exists. Bytes that became a job's input stay."""
        _document(self.path).unlink(missing_ok=True)
        _stop(self.path).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the upload."""
        self.forget()
        self.path.unlink(missing_ok=True)

    def _set_checked(self, size: int | None) -> None:
        self.upload = self.upload.model_copy(update={"checked": size})
        _write(self.path, self.upload)


class ResumableFiles:
    """All resumable uploads of a data folder.

    Args:
        storage: the data folder, with the limits of uploads.
        is_job: whether a job has this id.
        now: the wall clock in seconds. Retention times are days.
    """

    def __init__(self, storage: Storage, is_job: Callable[[str], bool], now: Callable[[], float] = time.time) -> None:
        self._storage, self._is_job, self._now = storage, is_job, now
        self._root = storage.resumable

    def create(self, owner: str, length: int, filename: str, metadata: str = "") -> Upload:
        """Create an empty upload. Raises LimitReached beyond the number of uploads of an owner, and StorageFull."""
        folder = self._folder(owner)
        upload = Upload(id=new_id(), owner=owner, length=length, filename=filename, metadata=metadata)
        path = folder / upload.id
        with room(folder):
            folder.mkdir(0o700, parents=True, exist_ok=True)
            with (folder / ".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._check_number(folder)
                path.touch(0o600, exist_ok=False)
                try:
                    _write(path, upload)
                except BaseException:
                    path.unlink()
                    raise
        return upload

    def _check_number(self, folder: Path) -> None:
        most = self._storage.max_open_uploads
        if sum(1 for _ in folder.glob("*.json")) >= most:
            raise LimitReached(
                f"{most} resumable uploads are open (SKIPVSR_MAX_OPEN_UPLOADS): turn complete uploads into jobs, or "
                "delete unneeded uploads",
                _RETRY_SECONDS,
            )

    def peek(self, upload_id: str, owner: str | None) -> tuple[Upload, Path]:
        """The document and the bytes of an upload, which may grow at the same time. Raises NotFound."""
        path = self._locate(upload_id, owner)
        upload = _read(path)
        if upload is None or not path.exists():
            raise _unknown(upload_id)
        return upload, path

    @contextmanager
    def locked(self, upload_id: str, owner: str | None) -> Iterator[OpenUpload]:
        """Open an upload under its lock during the block.

        Args:
            upload_id: the upload.
            owner: its owner; None: any owner.

        Raises:
            NotFound: unknown upload, or another owner's.
            UploadBusy: another request has the upload. `ask_to_stop` ends a request that receives bytes.
            NotReady: the upload has become a job.
            Gone: the upload has expired.
        """
        path = self._locate(upload_id, owner)
        try:
            file = _lock(path)
        except FileNotFoundError:
            file = self._take_back(path)
        with file:
            upload = _read(path)
            if upload is None:
                raise _unknown(upload_id)
            _stop(path).unlink(missing_ok=True)
            opened = OpenUpload(upload, path, file, self._storage.upload_lifetime)
            if opened.expires.timestamp() < self._now():
                raise Gone("the upload has expired (SKIPVSR_UPLOAD_TTL_HOURS): send the file again")
            file.seek(0, os.SEEK_END)
            yield opened

    def ask_to_stop(self, upload_id: str, owner: str | None) -> None:
        """Ask the receiving request to keep its bytes and to end: its connection may be dead."""
        with suppress(OSError):  # without the request, the other one ends by its time limit
            _stop(self._locate(upload_id, owner)).touch()

    def _take_back(self, path: Path) -> FileIO:
        """Return the bytes of an upload whose process died, or lost Redis, while creating the job."""
        moved = self._storage.input_path(path.name)
        with ExitStack() as stack:
            try:
                file = stack.enter_context(_lock(moved))
            except FileNotFoundError:
                raise _unknown(path.name) from None
            if self._is_job(path.name):
                _document(path).unlink(missing_ok=True)
                raise became_job(path.name)
            moved.rename(path)
            shutil.rmtree(moved.parent, ignore_errors=True)
            stack.pop_all()
        return file

    def expire(self) -> list[str]:
        """Remove expired uploads and remains of crashes; return descriptions. Uploads in use stay."""
        removed = []
        for folder in self._folders():
            names = {entry.name.partition(".")[0] for entry in folder.iterdir()}
            removed += [f"upload {name}" for name in sorted(names) if is_id(name) and self._expire(folder / name)]
        return removed

    def _expire(self, path: Path) -> bool:
        entries = [path, *path.parent.glob(f"{path.name}.*")]
        times = [found for entry in entries if (found := _changed(entry)) is not None]
        bytes_changed = _changed(path)
        newest = max(times, default=self._now()) if bytes_changed is None else bytes_changed
        if self._now() - newest <= self._storage.upload_lifetime:
            return False
        with suppress(FileNotFoundError, UploadBusy):
            with _lock(path):
                _remove(entries)
            return True
        if bytes_changed is None:
            _remove(entries)
        return bytes_changed is None

    def _locate(self, upload_id: str, owner: str | None) -> Path:
        if is_id(upload_id):
            for folder in self._folders() if owner is None else [self._folder(owner)]:
                if _document(folder / upload_id).exists():
                    return folder / upload_id
        raise _unknown(upload_id)

    def _folder(self, owner: str) -> Path:
        return self._root / (owner or _OPEN_OWNER)

    def _folders(self) -> list[Path]:
        return [path for path in self._root.iterdir() if path.is_dir()] if self._root.exists() else []


def became_job(upload_id: str) -> NotReady:
    """Create the error for an upload that has become a job."""
    return NotReady(f"the upload {upload_id} has become the job /jobs/{upload_id}: send the file again for another job")


def _unknown(upload_id: str) -> NotFound:
    return NotFound(f"There is no upload {upload_id[:80]!r}: expired uploads are removed.")


def _document(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _stop(path: Path) -> Path:
    return path.with_name(f"{path.name}.stop")


def _read(path: Path) -> Upload | None:
    try:
        return Upload.model_validate_json(_document(path).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _write(path: Path, upload: Upload) -> None:
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with room(path.parent):
        try:
            part.write_text(upload.model_dump_json(), encoding="utf-8")
            sync_file(part)
            part.replace(_document(path))
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _lock(path: Path) -> FileIO:
    """Open a file and take its lock. Raises UploadBusy, and FileNotFoundError for a removed file."""
    with ExitStack() as stack:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        file = stack.enter_context(FileIO(os.open(path, flags), "r+b"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UploadBusy("another request is using this upload: ask for its offset (HEAD), then continue") from None
        found, named = os.fstat(file.fileno()), path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_ino != named.st_ino:  # renamed or removed meanwhile
            raise FileNotFoundError(path)
        stack.pop_all()
    return file


def _changed(path: Path) -> float | None:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return None


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
