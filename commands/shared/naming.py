"""Names of results: the default name, the container, the place of unfinished files, collisions with other files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from commands.shared.errors import CommandError, FileError

_CONTAINERS: Final = {".mp4": "mp4", ".m4v": "mp4", ".mkv": "mkv", ".mov": "mov", ".webm": "webm"}
MARK: Final = ".upscaled"
"""Marks the default name of a result: clip.mp4 becomes clip.upscaled.mp4."""


def container_of(target: Path, remedy: str = "") -> str:
    """The container that the suffix of `target` names. Raises CommandError, which ends with `remedy`, if none."""
    container = _CONTAINERS.get(target.suffix.lower())
    if container is None:
        raise CommandError(f"{target.name} must end in .mp4, .mkv, .mov or .webm{remedy}")
    return container


def usual_container(source: Path) -> str:
    """The container of a result without the option: the source's container, else Matroska (for all tracks)."""
    return _CONTAINERS.get(source.suffix.lower(), "mkv")


def renamed(target: Path, container: str) -> Path:
    """`target` with the suffix of a container, unless its suffix names this container."""
    same = _CONTAINERS.get(target.suffix.lower()) == container
    return target if same else target.with_name(f"{target.stem}.{container}")


def marked(source: Path, container: str) -> Path:
    """The default name of the result of `source`, in the same folder."""
    return renamed(source.with_name(f"{source.stem}{MARK}{source.suffix}"), container)


def is_marked(path: Path) -> bool:
    """Whether a file has the default name of a result."""
    return Path(path.stem).suffix == MARK


def beside(target: Path, suffix: str) -> Path:
    """Path of an unfinished `target`: a hidden name in the same folder, the same at every call.

    A name over the file system's limit becomes a hash. Raises OSError if the folder does not exist.
    """
    folder, name = target.absolute().parent, f".{target.name}{suffix}"
    if len(os.fsencode(name)) > os.pathconf(folder, "PC_NAME_MAX"):
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}{suffix}"
    return folder / name


def check_source(source: Path) -> None:
    """Raise FileError if `source` is no file."""
    if source.is_dir():
        raise FileError(f"{source} is a folder; give the name of a video file")
    if not source.is_file():
        raise FileError(f"there is no file {source}")
    if not os.access(source, os.R_OK):
        raise FileError(f"{source} is not readable: permission denied")


def check_names(source: Path | None, written: dict[str, Path | None], *, overwrite: bool = True) -> None:
    """Raise FileError if a file cannot be written, or would replace another file.

    `written` maps the role of a file ("the output") to its path. An existing file may be replaced if `overwrite` is
    true.
    """
    taken = {source.resolve(): "the input"} if source is not None else {}
    for role, path in written.items():
        if path is None:
            continue
        _check_folder(path, role)
        other = taken.setdefault(path.resolve(), role)
        if other == role and source is not None and path.exists() and path.samefile(source):  # a hard link
            other = "the input"
        if other != role:
            raise FileError(f"{role} would replace {other}; choose another name for {role}")
        if path.exists() and not overwrite:
            raise FileError(f"{path} exists; give another name, or --overwrite")


def _check_folder(path: Path, role: str) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileError(f"there is no folder {folder}")
    if path.is_dir():
        raise FileError(f"{path} is a folder; give {role} the name of a file")
    if not os.access(folder, os.W_OK):
        raise FileError(f"the folder {folder} is not writable: permission denied")
