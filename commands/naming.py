"""What follows from the name that a result is to have: its container, where it is in the works, what it may replace."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from commands.errors import CommandError

_CONTAINERS: Final = {".mp4": "mp4", ".m4v": "mp4", ".mkv": "mkv", ".mov": "mov", ".webm": "webm"}


def container_of(target: Path, remedy: str = "") -> str:
    """The container that a file's suffix promises. Raises CommandError, with `remedy`, for one unknown."""
    container = _CONTAINERS.get(target.suffix.lower())
    if container is None:
        raise CommandError(f"{target.name} has to end in .mp4, .mkv, .mov or .webm{remedy}")
    return container


def beside(target: Path, suffix: str) -> Path:
    """Where what becomes of a file lies meanwhile: beside it and hidden, under the same name each time.

    Raises OSError where there is no such folder.
    """
    folder, name = target.absolute().parent, f".{target.name}{suffix}"
    if len(os.fsencode(name)) > os.pathconf(folder, "PC_NAME_MAX"):
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{suffix}"
    return folder / name


def check_names(source: Path | None, written: dict[str, Path | None]) -> None:
    """Raise CommandError where a file can't be written under its name, or would replace another of this command."""
    taken = {source.resolve(): "the input"} if source is not None else {}
    for what, path in written.items():
        if path is None:
            continue
        if not path.absolute().parent.is_dir():
            raise CommandError(f"there is no folder {path.absolute().parent}")
        if path.is_dir():
            raise CommandError(f"{path} is a folder; give {what} the name of a file")
        other = taken.setdefault(path.resolve(), what)
        if other == what and source is not None and path.exists() and path.samefile(source):  # a hard link
            other = "the input"
        if other != what:
            raise CommandError(f"{what} would replace {other}; give it another name")
