"""File names: sanitised client names, download names and media types of results."""

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
_MAX_NAME = 120
_MAX_SUFFIX = 12
_USUAL_SCALE = 4
"""Scale in a name, for documents without sizes."""


def harmless_name(name: str) -> str:
    """Sanitise a client's file name: last path component, no control characters, at most 120 characters."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip().strip(".")
    if len(name) > _MAX_NAME:
        stem, dot, suffix = name.rpartition(".")
        short_suffix = dot and len(suffix) < _MAX_SUFFIX
        name = f"{stem[: _MAX_NAME - 1 - len(suffix)]}.{suffix}" if short_suffix else name[:_MAX_NAME]
    return name or "video"


def result_name(job: Job, file: str) -> str:
    """Name a result for download: upload's stem, size and suffix of `file`, e.g. `clip-x4.mp4` or `clip-720p.mkv`."""
    stem = Path(job.filename).stem or "video"
    size = f"{job.options.height}p" if job.options.height else f"x{job.options.scale or _enlargement(job)}"
    return f"{stem}-{size}{Path(file).suffix}"


def _enlargement(job: Job) -> int:
    """Return the enlargement of a finished job without a wanted size: that of its model."""
    return round(job.output.height / job.input.height) if job.input and job.output else _USUAL_SCALE


def media_type(file: str) -> str:
    """Return the Content-Type of a result, by the suffix of its name."""
    return MEDIA_TYPES.get(Path(file).suffix, "application/octet-stream")
