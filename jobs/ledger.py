"""The ledger of a job: a small object that names the files of the job, and the worker that owns the files.

    jobs/<id>.json             the ledger
    files/<id>/<random>-<name> the bytes of a file, or a piece of a file; never overwritten

Every change is a conditional write: the write names the version to replace. No change is lost, and a worker that has
lost the job changes nothing.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Callable
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from jobs.bucket import Bucket, Changed, Found
from jobs.storage import Fenced, is_id

_LEDGERS: Final = "jobs/"
_FILES: Final = "files/"
_SUFFIX: Final = ".json"
_TRIES: Final = 30
"""Attempts at a change that others overtake."""
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A name that leads out of no folder."""


class Piece(BaseModel):
    """An object with the next bytes of a file."""

    key: _Name = Field(description="Last part of the object's key.")
    size: int = Field(ge=0)


class Filed(BaseModel):
    """A file in the bucket."""

    pieces: list[Piece] = Field(min_length=1)
    modified: float = Field(description="Time of the upload in seconds since 1970.")

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(piece.size for piece in self.pieces)


class Ledger(BaseModel):
    """All that is known about a job's files."""

    version: int = 1
    write: str = Field("", description="Random name of the last write, by which the writer knows its own write.")
    token: int = Field(0, description="Fencing token of the last worker; 0: no worker yet.")
    files: dict[_Name, Filed] = Field(default_factory=dict, description="The uploaded file and the published files.")
    work: dict[_Name, Filed] = Field(default_factory=dict, description="Files of the last checkpoint.")
    record: str | None = Field(None, description="The job's document, for a loss of Redis.")

    def pieces(self) -> set[str]:
        """Keys of all pieces."""
        return {piece.key for group in (self.files, self.work) for file in group.values() for piece in file.pieces}


class _Version(NamedTuple):
    ledger: Ledger
    etag: str


class Ledgers:
    """The ledgers in a bucket. Every method raises StorageUnavailable."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._listed: dict[str, Found] | None = None
        self._written: dict[str, _Version] = {}
        """What a worker of this process has written last. A wrong guess only costs another request."""
        self._seen: dict[str, tuple[str, bytes]] = {}
        """ETag and compressed bytes of listed ledgers."""

    @property
    def surveying(self) -> bool:
        """Whether `read` answers from the last list."""
        return self._listed is not None

    def survey(self) -> None:
        """List all ledgers. From now on `read` answers from the last list, and fetches only changed ledgers."""
        self._listed = {}
        self.list()

    def list(self) -> dict[str, Found]:
        """All ledgers by job."""
        listed = {}
        for found in self._bucket.objects(_LEDGERS):
            job_id = found.key.removeprefix(_LEDGERS).removesuffix(_SUFFIX)
            if is_id(job_id):
                listed[job_id] = found
        if self._listed is not None:
            self._listed = listed
            self._seen = {job_id: seen for job_id, seen in self._seen.items() if job_id in listed}
        return listed

    def read(self, job_id: str) -> Ledger | None:
        """The ledger of a job; None without a usable one."""
        if self._listed is not None:
            return self._read_listed(job_id, self._listed)
        found = self._version(job_id)
        return found.ledger if found is not None else None

    def exists(self, job_id: str) -> bool:
        """Whether a job has a ledger."""
        return job_id in self._listed if self._listed is not None else self._version(job_id) is not None

    def create(self, job_id: str, ledger: Ledger) -> bool:
        """Write the first ledger of a job; return False if the job has one."""
        ledger.write = secrets.token_hex(8)
        try:
            self._bucket.put(_key(job_id), ledger.model_dump_json().encode(), new=True)
        except Changed:
            found = self._version(job_id)  # the answer to our own write may have been lost
            return found is not None and found.ledger.write == ledger.write
        return True

    def change(self, job_id: str, edit: Callable[[Ledger], bool | None], *, token: int | None = None) -> set[str]:
        """Change a ledger; return the keys of the pieces that the change has dropped.

        Args:
            job_id: the job.
            edit: changes the ledger; returns False to change nothing. May run several times.
            token: the worker's token; None: for any worker.

        Raises Fenced if the job has another token, or no ledger.
        """
        name = secrets.token_hex(8)
        for _ in range(_TRIES):
            guess = self._written.pop(job_id, None) if token is not None else None
            found = guess or self._version(job_id)
            if found is None or (token is not None and found.ledger.token != token):
                raise Fenced(job_id)
            ledger, before = found.ledger, found.ledger.pieces()
            if ledger.write == name or edit(ledger) is False:
                return set()
            ledger.write = name
            try:
                etag = self._bucket.put(_key(job_id), ledger.model_dump_json().encode(), replaces=found.etag)
            except Changed:
                continue
            if token is not None:
                self._written[job_id] = _Version(ledger, etag)
            return before - ledger.pieces()
        raise Fenced(job_id)

    def leave(self, job_id: str) -> None:
        """Forget what a worker of this process has written."""
        self._written.pop(job_id, None)

    def remove(self, job_id: str) -> None:
        """Remove a ledger. No worker can change the job's files from now on."""
        self._bucket.delete(_key(job_id))

    def _version(self, job_id: str) -> _Version | None:
        try:
            data, etag = self._bucket.get(_key(job_id))
            return _Version(Ledger.model_validate_json(data), etag)
        except (FileNotFoundError, ValidationError):
            return None

    def _read_listed(self, job_id: str, listed: dict[str, Found]) -> Ledger | None:
        found = listed.get(job_id)
        if found is None:
            return None
        etag, data = self._seen.get(job_id, ("", b""))
        if etag != found.etag:
            try:
                text, etag = self._bucket.get(_key(job_id))
            except FileNotFoundError:
                return None
            data = zlib.compress(text, 6)
            self._seen[job_id] = etag, data
        try:
            return Ledger.model_validate_json(zlib.decompress(data))
        except ValidationError:
            return None


def _key(job_id: str) -> str:
    return f"{_LEDGERS}{job_id}{_SUFFIX}"


def files_of(job_id: str) -> str:
    """Prefix of the objects of a job's files."""
    return f"{_FILES}{job_id}/"


def file_key(job_id: str, piece: Piece) -> str:
    """Key of a piece."""
    return files_of(job_id) + piece.key
