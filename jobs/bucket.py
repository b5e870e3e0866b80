"""A bucket of an S3-compatible store: objects by key, with conditional writes.

Every request is repeated for some seconds after an error that may pass. `StorageUnavailable` follows then. Nothing here
holds more of a file in memory than a few blocks.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, cast
from urllib.parse import urlsplit

from jobs.disk import room
from jobs.errors import InvalidRequest, StorageUnavailable
from jobs.settings import Settings

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Store

log = logging.getLogger(__name__)

BLOCK_BYTES: Final = 4 << 20
"""Bytes of one request for a part of an object."""
_PART_BYTES: Final = 8 << 20
_MOST_PARTS: Final = 9000
"""S3 allows 10,000 parts."""
_AT_ONCE: Final = 4
"""Parts of an object sent at the same time."""
_LIST: Final = 1000
_WRITERS: Final = 8
_REQUEST_SECONDS: Final = 30
_CONNECT_SECONDS: Final = 3
_STATUS: Final = re.compile(r"status code: (\d{3} [A-Za-z ]+)")
DENIED: Final = (
    "The bucket refuses the credentials: check AWS_ACCESS_KEY_ID or SKIPVSR_S3_ACCESS_KEY_ID, and the bucket's policy."
)


class Changed(Exception):
    """Another version of the object exists, or the object exists already, or no longer."""


class Found(NamedTuple):
    """An object in a list."""

    key: str
    etag: str
    size: int
    modified: float
    """Time of the write in seconds since 1970, by the server's clock."""


class Bucket:
    """Objects below the prefix of a bucket. Every method raises StorageUnavailable if the bucket does not answer.

    Args:
        store: the client.
        where: the address for messages, without credentials.
    """

    def __init__(self, store: S3Store, where: str) -> None:
        self._store, self.where = store, where

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Create the client of the settings, without a request. Raises InvalidRequest."""
        try:
            from obstore.exceptions import BaseError
            from obstore.store import S3Store
        except ModuleNotFoundError as error:
            raise InvalidRequest(
                "SKIPVSR_STORAGE names a bucket, and the package obstore is missing: pip install 'skipvsr[s3]'"
            ) from error
        address = urlsplit(settings.storage)
        try:
            store = S3Store(
                address.netloc,
                prefix=address.path.strip("/") or None,
                client_options=cast("ClientConfig", _client(settings)),
                retry_config={
                    "max_retries": 50,
                    "retry_timeout": timedelta(seconds=settings.s3_retry_seconds),
                    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2},
                },
                **_config(settings),
            )
        except (BaseError, ValueError, OSError) as error:
            raise InvalidRequest(f"SKIPVSR_STORAGE: {_line(error)}") from error
        return cls(store, settings.storage)

    def put(
        self,
        key: str,
        data: bytes | Path,
        *,
        replaces: str | None = None,
        new: bool = False,
        about: Mapping[str, str] | None = None,
    ) -> str:
        """Write an object in one step; return its ETag.

        Args:
            key: the object.
            data: the bytes, or a file, of which a large one is sent in parts.
            replaces: ETag of the version that the object must have.
            new: whether no object of this key may exist.
            about: headers of answers to presigned requests for a file.

        Raises Changed if the condition does not hold.
        """
        import obstore

        mode: Any = "create" if new else {"e_tag": replaces} if replaces is not None else "overwrite"
        with self._reported():
            if isinstance(data, Path):
                size = data.stat().st_size
                part = max(_PART_BYTES, -(-size // _MOST_PARTS))
                many = size > part
                result = obstore.put(
                    self._store,
                    key,
                    data,
                    attributes=dict(about or {}),
                    use_multipart=many,
                    chunk_size=part,
                    max_concurrency=_AT_ONCE,
                )
            else:
                result = obstore.put(self._store, key, data, mode=mode, use_multipart=False)
        return result["e_tag"] or ""

    def get(self, key: str) -> tuple[bytes, str]:
        """The bytes and the ETag of a small object. Raises FileNotFoundError."""
        import obstore

        with self._reported():
            found = obstore.get(self._store, key)
            return bytes(found.bytes()), found.meta["e_tag"] or ""

    def download(self, key: str, size: int, target: Path) -> None:
        """Append an object of `size` bytes to a file. Raises FileNotFoundError, StorageFull and OSError."""
        import obstore

        with target.open("ab") as file, room(target.parent):
            for first in range(0, size, BLOCK_BYTES):
                with self._reported():
                    block = obstore.get_range(self._store, key, start=first, end=min(first + BLOCK_BYTES, size))
                file.write(memoryview(block))

    def presigned(self, key: str, seconds: float) -> str:
        """A URL with which anybody can read an object for some seconds. No request is made."""
        import obstore

        with self._reported():
            return str(obstore.sign(self._store, "GET", key, timedelta(seconds=seconds)))

    async def block(self, key: str, first: int, end: int) -> bytes:
        """Some bytes of an object. Raises FileNotFoundError."""
        import obstore

        with self._reported():
            return bytes(await obstore.get_range_async(self._store, key, start=first, end=end))

    def objects(self, prefix: str) -> Iterator[Found]:
        """Yield all objects below a prefix."""
        import obstore

        with self._reported():
            for page in obstore.list(self._store, prefix, chunk_size=_LIST):
                for meta in page:
                    key, etag = meta["path"], meta["e_tag"] or ""
                    yield Found(key, etag, meta["size"], meta["last_modified"].timestamp())

    def folders(self, prefix: str) -> list[str]:
        """Names directly below a prefix that have objects below them."""
        import obstore

        with self._reported():
            found = obstore.list_with_delimiter(self._store, prefix)
        return [name.rstrip("/").rpartition("/")[2] for name in found["common_prefixes"]]

    def delete(self, *keys: str) -> None:
        """Delete objects; an object that does not exist is no error."""
        import obstore

        for first in range(0, len(keys), _LIST):
            with self._reported(), suppress(FileNotFoundError):
                obstore.delete(self._store, list(keys[first : first + _LIST]))

    def check(self) -> None:
        """Check that the bucket writes, refuses a second creation, accepts and refuses conditional writes, deletes.

        Several writers at the same time show whether a condition and its write are one step. Raises StorageUnavailable,
        and InvalidRequest for a store without conditional writes.
        """
        key = f"check/{os.urandom(8).hex()}"
        etag = self.put(key, b"1", new=True)
        try:
            if not self._refuses(lambda: self.put(key, b"2", new=True)):
                raise InvalidRequest(f"{self.where} ignores If-None-Match: use a store with conditional writes")
            changed = self.put(key, b"2", replaces=etag)
            if not self._refuses(lambda: self.put(key, b"3", replaces=etag)):
                raise InvalidRequest(f"{self.where} ignores If-Match: use a store with conditional writes")
            if self.get(key) != (b"2", changed):
                raise InvalidRequest(f"{self.where} returns an old version: use a store with strong consistency")
            self._check_races(key, changed)
        finally:
            self.delete(key, f"{key}-new")

    def _check_races(self, key: str, etag: str) -> None:
        """Let writers replace an object, and create another one. Raises InvalidRequest if several succeed."""
        replaced = self._winners(lambda data: self.put(key, data, replaces=etag))
        created = self._winners(lambda data: self.put(f"{key}-new", data, new=True))
        for what, winners in (("replace one version of", replaced), ("create", created)):
            if winners > 1:
                raise InvalidRequest(
                    f"{self.where} lets {winners} writers at the same time {what} an object: use a store with atomic "
                    "conditional writes"
                )

    def _winners(self, write: Callable[[bytes], str]) -> int:
        """Number of writers that succeed of `_WRITERS` at the same time."""
        start = Barrier(_WRITERS)

        def succeeds(number: int) -> bool:
            start.wait()
            return not self._refuses(lambda: write(b"writer %d" % number))

        with ThreadPoolExecutor(_WRITERS) as pool:
            return sum(pool.map(succeeds, range(_WRITERS)))

    @staticmethod
    def _refuses(write: Callable[[], str]) -> bool:
        try:
            write()
        except Changed:
            return True
        return False

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Raise errors of the client as StorageUnavailable, Changed or FileNotFoundError."""
        from obstore.exceptions import (
            AlreadyExistsError,
            BaseError,
            PermissionDeniedError,
            PreconditionError,
            UnauthenticatedError,
        )

        try:
            yield
        except (AlreadyExistsError, PreconditionError) as error:
            raise Changed from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            log.warning("%s: %s", self.where, _line(error))
            raise StorageUnavailable(DENIED) from error
        except BaseError as error:
            log.warning("%s: %s", self.where, _line(error))
            status = _STATUS.search(str(error))
            what = f"answers with status {status[1]}" if status else "does not answer"
            raise StorageUnavailable(f"The bucket {self.where} {what}. Try again later.") from error


def _client(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "timeout": timedelta(seconds=_REQUEST_SECONDS),
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "allow_http": (settings.s3_endpoint or "").startswith("http://"),
    }
    if settings.s3_ca is not None:
        options["root_certificate"] = settings.s3_ca.read_bytes()
    return options


def _config(settings: Settings) -> Mapping[str, Any]:
    """Options of the client; obstore reads missing options from the standard variables of AWS."""
    secret = settings.s3_secret_access_key
    given = {
        "endpoint": settings.s3_endpoint,
        "region": settings.s3_region,
        "access_key_id": settings.s3_access_key_id,
        "secret_access_key": secret.get_secret_value() if secret else None,
        "virtual_hosted_style_request": not settings.s3_path_style,
    }
    return {name: value for name, value in given.items() if value is not None}


def _line(error: Exception) -> str:
    """The first line of an error, for the log; obstore's messages add many lines of details."""
    return (str(error).splitlines() or [type(error).__name__])[0][:500]
