"""The container of a result, from the name that it is to have."""

from __future__ import annotations

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
