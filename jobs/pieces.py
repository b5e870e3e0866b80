"""The way of a job's bytes into a bucket and back: files as pieces; a piece is an object that never changes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from jobs.bucket import Bucket
from jobs.errors import StorageUnavailable
from jobs.ledger import Filed, Piece, file_key, files_of
from jobs.names import content_disposition, media_type
from jobs.working_files import Change


class Pieces:
    """The pieces in a bucket. Every method may raise StorageUnavailable.

    Args:
        bucket: the bucket.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def send(self, job_id: str, path: Path, name: str, title: str = "") -> Filed:
        """Send a whole file.

        Args:
            job_id: the job.
            path: the file.
            name: end of the object's key.
            title: name under which a browser stores the file from a presigned URL; empty: no such name.
        """
        piece = Piece(key=f"{secrets.token_hex(8)}-{name}", size=path.stat().st_size)
        about = {"Content-Type": media_type(title), "Content-Disposition": content_disposition(title)} if title else {}
        self._bucket.put(file_key(job_id, piece), path, about=about)
        return Filed(pieces=[piece], modified=time.time())

    def send_change(self, job_id: str, change: Change) -> Piece:
        """Send the new bytes of a file."""
        piece = Piece(key=f"{secrets.token_hex(8)}-{change.name}", size=change.end - change.start)
        self._bucket.put(file_key(job_id, piece), change.path if change.start == 0 else change.added())
        return piece

    def fetch(self, job_id: str, filed: Filed, target: Path) -> None:
        """Write a file's bytes into a new file. Raises FileExistsError, FileNotFoundError, StorageFull and OSError."""
        target.touch(exist_ok=False)
        for piece in filed.pieces:
            self._bucket.download(file_key(job_id, piece), piece.size, target)

    def drop(self, job_id: str, keys: Iterable[str]) -> None:
        """Delete pieces that no ledger names any more."""
        with suppress(StorageUnavailable):  # the end of the job removes the pieces
            self._bucket.delete(*(files_of(job_id) + key for key in keys))
