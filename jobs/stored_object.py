"""An uploaded file or a result in a bucket."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256

from jobs.bucket import BLOCK_BYTES, Bucket
from jobs.ledger import Filed, file_key
from jobs.stored import OpenedFile, StoredFile


class _OpenedObject(OpenedFile):
    def __init__(self, bucket: Bucket, job_id: str, filed: Filed) -> None:
        self.size = filed.size
        self._bucket, self._job_id, self._pieces = bucket, job_id, filed.pieces

    async def blocks(self, first: int, end: int) -> AsyncGenerator[bytes]:
        """Each block is a separate request: a slow reader keeps no request open."""
        begin = 0
        for piece in self._pieces:
            key, last = file_key(self._job_id, piece), min(end, begin + piece.size)
            for start in range(max(first, begin), last, BLOCK_BYTES):
                yield await self._bucket.block(key, start - begin, min(start + BLOCK_BYTES, last) - begin)
            begin += piece.size


class StoredObject(StoredFile):
    """A file in a bucket.

    Args:
        name: name of the file.
        bucket: the bucket.
        job_id: the job.
        filed: where the file is.
    """

    def __init__(self, name: str, bucket: Bucket, job_id: str, filed: Filed) -> None:
        super().__init__(name)
        self.filed = filed
        self._bucket, self._job_id = bucket, job_id

    @property
    def modified(self) -> float:
        """Time of the upload."""
        return self.filed.modified

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.filed.size

    @property
    def etag(self) -> str:
        """A strong entity tag, with its quotes. Pieces are never overwritten: their keys identify the version."""
        return f'"{fingerprint(self.filed)}"'

    def address(self, seconds: float) -> str | None:
        """A presigned URL; None for a file of several objects."""
        if len(self.filed.pieces) != 1:
            return None
        return self._bucket.presigned(file_key(self._job_id, self.filed.pieces[0]), seconds)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[OpenedFile]:
        """Open the file during the block, without a request."""
        yield _OpenedObject(self._bucket, self._job_id, self.filed)


def fingerprint(*files: Filed) -> str:
    """A name for the content of files."""
    keys = "/".join(piece.key for filed in files for piece in filed.pieces)
    return sha256(keys.encode()).hexdigest()[:32]
