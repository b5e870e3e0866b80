"""Names of results: the container, the place of unfinished files, and collisions with other files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from commands.shared.errors import CommandError

_CONTAINERS: Final = {".mp4": "mp4", ".m4v": "mp4", ".mkv": "mkv", ".mov": "mov", ".webm": "webm"}


def container_of(target: Path, remedy: str = "") -> str:
    """The container that the suffix of `target` names. Raises CommandError, which ends with `remedy`, if none."""
    container = _CONTAINERS.get(target.suffix.lower())
    if container is None:
        raise CommandError(f"{target.name} must end in .mp4, .mkv, .mov or .webm{remedy}")
    return container


def beside(target: Path, suffix: str) -> Path:
    """Path of an unfinished `target`: a hidden name in the same folder, the same at every call.

    A name over the file system's limit becomes a hash. Raises OSError if the folder does not exist.
    """
    folder, name = target.absolute().parent, f".{target.name}{suffix}"
    if len(os.fsencode(name)) > os.pathconf(folder, "PC_NAME_MAX"):
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{suffix}"
    return folder / name


def check_names(source: Path | None, written: dict[str, Path | None]) -> None:
    """Raise CommandError if a file cannot be written, or would replace another file of the command.

    `written` maps what a file is ("the output") to its path.
    """
    taken = {source.resolve(): "the input"} if source is not None else {}
    for role, path in written.items():
        if path is None:
            continue
        if not path.absolute().parent.is_dir():
            raise CommandError(f"there is no folder {path.absolute().parent}")
        if path.is_dir():
            raise CommandError(f"{path} is a folder; give {role} the name of a file")
        other = taken.setdefault(path.resolve(), role)
        if other == role and source is not None and path.exists() and path.samefile(source):  # a hard link
            other = "the input"
        if other != role:
            raise CommandError(f"{role} would replace {other}; give it another name")
