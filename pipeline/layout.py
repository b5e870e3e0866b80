"""Names of the files in a working folder, for readers without torch. `pipeline.checkpoint` describes the files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

MANIFEST: Final = "manifest.json"
PLAN: Final = "plan.json"
SHOWN: Final = (MANIFEST, "segment-*.mp4")
"""Patterns of the files that `finished_segments` needs."""


class _Head(BaseModel):
    """The part of a manifest that counts finished segments."""

    segments: int = 0


def segment_path(folder: Path, number: int) -> Path:
    """Path of the segment of a chunk."""
    return folder / f"segment-{number:06d}.mp4"


def finished_segments(folder: Path) -> tuple[Path, ...]:
    """Paths of the segments that the last checkpoint names; none without a checkpoint."""
    try:
        head = _Head.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return ()
    return tuple(segment_path(folder, number) for number in range(head.segments))
