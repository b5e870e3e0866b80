"""The ledger of a watched folder: which version of each file was upscaled, kept in the folder of the results."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ValidationError

from commands.shared.errors import CommandError

_FOLDER: Final = ".skipvsr"


class Version(BaseModel, frozen=True):
    """A version of a file, as its size and time of change tell."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The version at present. Raises OSError."""
        facts = path.stat()
        return cls(size=facts.st_size, mtime_ns=facts.st_mtime_ns)


class Entry(BaseModel):
    """The outcome for a version of a file."""

    version: Version
    outcome: Literal["submitted", "done", "failed", "kept"]
    """kept: the result existed before; the file was never upscaled."""
    output: str
    """Path of the result in the folder of the results."""
    job: str | None = None
    """Job of a server."""
    error: str | None = None


class _Document(BaseModel):
    version: Literal[1] = 1
    files: dict[str, Entry] = {}


class Ledger:
    """Entries by the path of a file in the watched folder. Each change is written at once.

    Args:
        folder: the folder of the results.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / _FOLDER / "watch.json"
        self._document = _Document()

    @contextmanager
    def opened(self) -> Iterator[Self]:
        """Read the ledger, and keep other processes out. Raises CommandError, OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with (self._path.parent / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandError(f"another `skipvsr watch` writes into {self.folder}; stop it first") from None
            if self._path.exists():
                try:
                    self._document = _Document.model_validate_json(self._path.read_bytes())
                except ValidationError:
                    raise CommandError(f"{self._path} is damaged; delete the file: existing results are kept") from None
            yield self

    def entry(self, source: Path) -> Entry | None:
        """The entry of a file, given by its path in the watched folder."""
        return self._document.files.get(source.as_posix())

    def owner(self, output: Path) -> Path | None:
        """The file whose result is `output`, a path in the folder of the results."""
        for source, entry in self._document.files.items():
            if entry.output == output.as_posix():
                return Path(source)
        return None

    def write(self, source: Path, entry: Entry) -> None:
        """Record the outcome for a file. Raises OSError."""
        from jobs.disk import replace

        self._document.files[source.as_posix()] = entry
        part = self._path.with_suffix(f".{os.getpid()}")
        part.write_text(self._document.model_dump_json(indent=1, exclude_none=True) + "\n")
        replace(part, self._path)
