"""Names of files: what clients call theirs, made harmless, and what a result is called."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from jobs.schema import Job

MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".mkv": "video/matroska",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
}


def harmless_name(name: str) -> str:
    """The last component of a client's file name, without control characters, at most 120 characters long."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip().strip(".")
    if len(name) > 120:
        stem, dot, suffix = name.rpartition(".")
        name = f"{stem[: 119 - len(suffix)]}.{suffix}" if dot and len(suffix) < 12 else name[:120]
    return name or "video"


def result_name(job: Job, path: Path) -> str:
    """What the result at `path` is called when it is saved: `clip-x4.mp4`, or `clip-720p.mkv` where a height was asked
    for and it became Matroska."""
    stem = Path(job.filename).stem or "video"
    size = f"{job.options.height}p" if job.options.height else f"x{job.options.scale or 4}"
    return f"{stem}-{size}{path.suffix}"


def media_type(path: Path) -> str:
    """The Content-Type of a result, by its suffix."""
    return MEDIA_TYPES.get(path.suffix, "application/octet-stream")
