"""Resumable uploads of one caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.allowance import Allowance
from jobs.errors import InvalidRequest, NotFound, NotReady, OffsetMismatch
from jobs.incoming import Incoming
from jobs.resumable import OpenUpload, ResumableFiles, Upload, became_job
from jobs.storage import Storage, new_id
from jobs.store import JobStore
from service.callers import Caller


class Resumable:
    """Operations on resumable uploads.

    Uploads of other callers are unknown, unless the caller is an administrator. Methods with an upload's id raise
    NotFound, Gone after the expiry, and UploadBusy while another request has the upload.
    """

    def __init__(self, store: JobStore, storage: Storage, caller: Caller, allowance: Allowance) -> None:
        self._store, self._storage = store, storage
        self._caller, self._allowance = caller, allowance
        self._files = ResumableFiles(storage, store.knows)
        self._owner = None if caller.admin else caller.key_id

    def create(self, length: int, filename: str, metadata: str = "") -> Upload:
        """Announce an upload of `length` bytes. Nothing is reserved, because announcements cost a client nothing.

        Raises:
            LimitReached, TooLarge: a limit of the caller's key, or too many open uploads.
            StorageFull: the disk or the quota has no room for the whole file.
            StoreUnavailable: Redis does not answer, so no job could be queued.
        """
        self._store.ping()
        self._storage.check_room(length)
        with self._allowance.metered(new_id(), length):
            return self._files.create(self._caller.key_id, length, filename, metadata)

    def peek(self, upload_id: str) -> tuple[Upload, Path]:
        """The document of an upload, and the file with its bytes. The file may grow at the same time."""
        self._caller.confirm()
        return self._files.peek(upload_id, self._owner)

    @contextmanager
    def open(self, upload_id: str) -> Iterator[OpenUpload]:
        """Open an upload for this caller alone during the block. Raises NotReady if a job has taken the upload."""
        self._caller.confirm()
        try:
            with self._files.locked(upload_id, self._owner) as opened:
                yield opened
        except NotFound:
            if self._is_own_job(upload_id):
                raise became_job(upload_id) from None
            raise

    def ask_to_stop(self, upload_id: str) -> None:
        """Ask the receiving request to keep its bytes and to end."""
        self._files.ask_to_stop(upload_id, self._owner)

    @contextmanager
    def receiving(self, upload_id: str, offset: int, coming: int) -> Iterator[tuple[OpenUpload, Incoming]]:
        """Receive bytes from `offset` on during the block.

        Args:
            upload_id: the upload.
            offset: the client's idea of the upload's size so far.
            coming: bytes that the request announces; 0 if unknown.

        Raises:
            OffsetMismatch: another number of bytes has arrived.
            TooManyUploads, StorageFull, LimitReached: no room, at the start or while bytes arrive.
        """
        with self.open(upload_id) as opened:
            if opened.offset != offset:
                raise OffsetMismatch(opened.offset)
            with self._allowance.metered(upload_id, coming, starts=False) as meter:
                incoming = Incoming(self._storage, opened.path, opened.upload.length, meter.count, opened.file)
                try:
                    yield opened, incoming
                finally:
                    incoming.close()

    @contextmanager
    def complete(self, upload_id: str) -> Iterator[OpenUpload]:
        """Hold a complete upload and a place for its job during the block. `OpenUpload.forget` ends the upload.

        Raises:
            NotReady: bytes are missing, or the upload has become a job.
            LimitReached: the caller's key has its number of jobs at a time, or its jobs wait too long.
        """
        self._allowance.check_wait()
        with self.open(upload_id) as opened, self._allowance.slot(upload_id):
            if self._store.knows(upload_id):  # the process died after the upload had become a job
                opened.remove()
                raise became_job(upload_id)
            if not opened.complete:
                raise NotReady(
                    f"the upload has {opened.offset:,} of {opened.upload.length:,} bytes: send the rest, then try again"
                )
            if not opened.upload.length:
                raise InvalidRequest(f"the file '{opened.upload.filename}' is empty")
            yield opened

    def _is_own_job(self, job_id: str) -> bool:
        try:
            return self._caller.may_see(self._store.get(job_id).owner)
        except NotFound:
            return False
