"""The API keys of a server: `keys.json` in the data folder.

The file holds digests, so whoever reads the file can neither call the server nor make a cookie. A key has 256 random
bits, and one SHA-256 is enough: nobody can guess such a key. The id in the key's text finds the row. The server then
compares a single digest, in constant time.

Servers look at the file at every request and read the file after a change. If the file is damaged, or vanishes, the
running server refuses everybody but the administrator.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from jobs.allowance import Limits
from jobs.disk import sync_file
from jobs.errors import InvalidRequest, KeysUnreadable, NotFound
from jobs.settings import Settings
from service.callers import Scope

log = logging.getLogger(__name__)

_NAME: Final = "keys.json"
_MAX_BYTES: Final = 16 << 20
_KEY: Final = re.compile(r"svk_([0-9a-f]{8})_[0-9a-f]{64}")
_COOKIE: Final = re.compile(r"([0-9a-f]{8})\.[0-9a-f]{64}")
_COOKIE_LABEL: Final = b"skipvsr: read-only cookie"

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=1)]


class StoredKey(BaseModel):
    """One row of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    key_sha256: _Digest
    cookie_sha256: _Digest
    scopes: tuple[Scope, ...]
    max_jobs: _Count | None = None
    uploads_per_minute: _Count | None = None
    bytes_per_day: _Count | None = None
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    @field_validator("name")
    @classmethod
    def _is_plain(cls, name: str) -> str:
        if not name.isprintable() or name != name.strip():
            raise ValueError("a name has printable characters only, and no space at its ends")
        return name

    @property
    def limits(self) -> Limits:
        """The key's limits."""
        return Limits(self.max_jobs, self.uploads_per_minute, self.bytes_per_day)

    @property
    def state(self) -> Literal["active", "expired", "revoked"]:
        """Whether the key opens the server now."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= datetime.now(UTC) else "active"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: list[StoredKey] = []


def cookie_of(key: bytes) -> str:
    """The read-only token of a key. The token does not reveal the key."""
    return hmac.digest(key, _COOKIE_LABEL, "sha256").hex()


class KeyFile:
    """The file with the keys. Methods that read raise `KeysUnreadable` if the file is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, ...] | None, dict[str, StoredKey] | None] | None = None
        """Stamp of the last file read, and its keys; None for a damaged file."""
        self._ever = False

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The file of the settings."""
        return cls(settings.data_dir / _NAME)

    def keys(self) -> dict[str, StoredKey]:
        """All keys by id, revoked and expired keys too; empty without a file."""
        stamp = self._stamp()
        if self._read is None or self._read[0] != stamp:
            self._read = self._load(stamp)
        found = self._read[1]
        if found is None:
            raise KeysUnreadable(
                "the server cannot read its list of API keys, and refuses all keys but the administrator's; the "
                "server's log names the file"
            )
        return found

    def find(self, given: bytes) -> StoredKey | None:
        """The row of a key's text, in any state; None for a wrong key."""
        return self._find(_KEY, given, given, lambda row: row.key_sha256)

    def find_cookie(self, given: bytes) -> StoredKey | None:
        """The row of a cookie, in any state; None for a wrong cookie."""
        return self._find(_COOKIE, given, given.rpartition(b".")[2], lambda row: row.cookie_sha256)

    def add(
        self, name: str, scopes: frozenset[Scope], limits: Limits, expires: datetime | None = None
    ) -> tuple[StoredKey, str]:
        """Create a key; return the key's row and text. The text cannot be recovered later.

        Raises InvalidRequest if another usable key has the name, or the name is no plain text.
        """
        with self._changing() as keys:
            if any(row.name == name and row.state == "active" for row in keys.values()):
                raise InvalidRequest(f"a key has the name {name!r} already: revoke that key, or choose another name")
            key_id = secrets.token_hex(4)
            while key_id in keys:
                key_id = secrets.token_hex(4)
            text = f"svk_{key_id}_{secrets.token_hex(32)}"
            try:
                row = StoredKey(
                    id=key_id,
                    name=name,
                    key_sha256=_sha256(text.encode()),
                    cookie_sha256=_sha256(cookie_of(text.encode()).encode()),
                    scopes=tuple(sorted(scopes)),
                    max_jobs=limits.max_jobs,
                    uploads_per_minute=limits.uploads_per_minute,
                    bytes_per_day=limits.bytes_per_day,
                    created=datetime.now(UTC),
                    expires=expires,
                )
            except ValidationError as error:
                raise InvalidRequest(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
            keys[key_id] = row
        return row, text

    def revoke(self, wanted: str) -> StoredKey:
        """Revoke the key with this id, or the usable key with this name; return its row. Revoking twice is harmless.

        Raises NotFound.
        """
        with self._changing() as keys:
            named = [row for row in keys.values() if row.name == wanted and row.state == "active"]
            row = keys.get(wanted) or (named[0] if named else None)
            if row is None:
                raise NotFound(f"there is no key {wanted!r}: `skipvsr keys list` shows ids and names")
            if row.revoked is None:
                row = row.model_copy(update={"revoked": datetime.now(UTC)})
                keys[row.id] = row
        return row

    def _find(
        self, form: re.Pattern[str], given: bytes, secret: bytes, digest: Callable[[StoredKey], str]
    ) -> StoredKey | None:
        keys = self.keys()
        match = form.fullmatch(given.decode("latin-1"))
        row = keys.get(match[1]) if match else None
        expected = digest(row) if row else "0" * 64
        return row if hmac.compare_digest(_sha256(secret), expected) else None

    def _stamp(self) -> tuple[int, ...] | None:
        """What changes whenever the file changes; None without a file."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return (0,) if self.path.is_symlink() else None  # a link to a file that is not mounted: not readable
        except OSError as error:
            return (-(error.errno or 1),)
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size

    def _load(self, stamp: tuple[int, ...] | None) -> tuple[tuple[int, ...] | None, dict[str, StoredKey] | None]:
        if stamp is None:
            if not self._ever:
                return stamp, {}
            log.error("%s has vanished; the server stays closed until the file is back, or until a restart", self.path)
            return stamp, None
        self._ever = True
        try:
            return stamp, self._parsed()
        except OSError as error:
            reason = str(error.strerror)
        except ValueError as error:
            reason = _reason(error)
        log.error("cannot read the API keys in %s: %s", self.path, reason)
        return stamp, None

    def _parsed(self) -> dict[str, StoredKey]:
        """Read the file. Raises OSError, ValueError."""
        fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("not a regular file")
            with open(fd, "rb", closefd=False) as file:
                text = file.read(_MAX_BYTES + 1)
        finally:
            os.close(fd)
        if len(text) > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES:,} bytes")
        return {row.id: row for row in _Document.model_validate_json(text).keys}

    @contextmanager
    def _changing(self) -> Iterator[dict[str, StoredKey]]:
        """Read, lock and write the file; the block changes the keys. Raises KeysUnreadable."""
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / f".{_NAME}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                keys = self._parsed() if self._stamp() is not None else {}
            except ValueError as error:
                raise KeysUnreadable(f"{self.path} is damaged: restore the file from a backup") from error
            except OSError as error:
                raise KeysUnreadable(f"{self.path} cannot be read: {error.strerror}") from error
            yield keys
            self._write(_Document(keys=list(keys.values())))
        finally:
            os.close(lock)

    def _write(self, document: _Document) -> None:
        part = self.path.with_name(f".{_NAME}-{secrets.token_hex(4)}")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 (a descriptor)
                file.write(document.model_dump_json(indent=2) + "\n")
            _give_to_owner_of(part.parent, part, part.with_name(f".{_NAME}.lock"))
            sync_file(part)
            part.replace(self.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_file(self.path.parent)


def _give_to_owner_of(folder: Path, *files: Path) -> None:
    """Root writes for the service: the files belong to the user of the data folder."""
    if os.geteuid() == 0:
        found = folder.stat()
        for file in files:
            os.chown(file, found.st_uid, found.st_gid)


def _reason(error: ValueError) -> str:
    """Why the file is damaged, without its content."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
    return str(error)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
