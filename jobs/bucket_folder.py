"""The objects of a bucket below a prefix, as a bucket of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from jobs.bucket import Bucket, Found


class BucketFolder(Bucket):
    """A part of another bucket.

    Args:
        bucket: the whole bucket.
        prefix: beginning of all keys.
    """

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        self._whole, self._prefix, self.where = bucket, prefix, bucket.where

    def put(
        self,
        key: str,
        data: bytes | Path,
        *,
        replaces: str | None = None,
        new: bool = False,
        about: Mapping[str, str] | None = None,
    ) -> str:
        """Write an object; see `Bucket.put`."""
        return self._whole.put(self._prefix + key, data, replaces=replaces, new=new, about=about)

    def get(self, key: str) -> tuple[bytes, str]:
        """The bytes and the ETag of a small object. Raises FileNotFoundError."""
        return self._whole.get(self._prefix + key)

    def download(self, key: str, size: int, target: Path) -> None:
        """Append an object to a file; see `Bucket.download`."""
        self._whole.download(self._prefix + key, size, target)

    def presigned(self, key: str, seconds: float) -> str:
        """A URL with which anybody can read an object for some seconds."""
        return self._whole.presigned(self._prefix + key, seconds)

    async def block(self, key: str, first: int, end: int) -> bytes:
        """Some bytes of an object. Raises FileNotFoundError."""
        return await self._whole.block(self._prefix + key, first, end)

    def objects(self, prefix: str) -> Iterator[Found]:
        """Yield all objects below a prefix."""
        for found in self._whole.objects(self._prefix + prefix):
            yield found._replace(key=found.key.removeprefix(self._prefix))

    def folders(self, prefix: str) -> list[str]:
        """Names directly below a prefix that have objects below them."""
        return self._whole.folders(self._prefix + prefix)

    def delete(self, *keys: str) -> None:
        """Delete objects."""
        self._whole.delete(*(self._prefix + key for key in keys))

    def check(self) -> None:
        """Check the whole bucket."""
        self._whole.check()
