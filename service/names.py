"""Names of files: what clients call theirs, made harmless, and what a result is called."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from jobs.schema import Job


def harmless_name(name: str) -> str:
    """The last component of a client's file name, without control characters, at most 120 characters long."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip().strip(".")
    if len(name) > 120:
        stem, dot, suffix = name.rpartition(".")
        name = f"{stem[: 119 - len(suffix)]}.{suffix}" if dot and len(suffix) < 12 else name[:120]
    return name or "video"


def result_name(job: Job) -> str:
    """What a result is called when it is saved: `clip-x4.mp4`, or `clip-720p.mp4` where a height was asked for."""
    stem = Path(job.filename).stem or "video"
    size = f"{job.options.height}p" if job.options.height else f"x{job.options.scale or 4}"
    return f"{stem}-{size}.mp4"
