"""The record of a job beside its files (`jobs.records`)."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from jobs.disk import open_regular, sync_file
from jobs.errors import JobFailed

_NAME: Final = "job.json"
_MOST_BYTES: Final = 1 << 20


def write(folder: Path, text: str, *, through: Path | None, replaces: bytes | None) -> bool:
    """Write the record in a job's folder atomically; see `Storage.write_record`."""
    if replaces and read(folder) != replaces:
        return False
    part = (through or folder) / f".{_NAME}-{secrets.token_hex(4)}"
    try:
        with part.open("x") as file:
            file.write(text)
        sync_file(part)
        if replaces is None:
            os.link(part, folder / _NAME)  # fails if the record exists
            part.unlink()
        else:
            part.replace(folder / _NAME)
        sync_file(folder)
    except FileNotFoundError:
        return False
    except FileExistsError:
        part.unlink(missing_ok=True)
        return False
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return True


def read(folder: Path) -> bytes | None:
    """The record in a job's folder; None for a missing record, a link, or a far too long record."""
    try:
        with open_regular(folder / _NAME) as file:
            text = file.read(_MOST_BYTES + 1)
    except (OSError, JobFailed):
        return None
    return text if len(text) <= _MOST_BYTES else None
