"""Download names and media types of results."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from jobs.schema import Job

MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".mkv": "video/matroska",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
}
_USUAL_SCALE = 4
"""Scale in a name, for documents without sizes."""


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


def content_disposition(filename: str) -> str:
    """Format the header of RFC 6266: an ASCII name, plus the exact name (RFC 8187) if it has other characters."""
    plain = re.sub(r'[^ -~]|["\\%/]', "_", filename)
    value = f'attachment; filename="{plain}"'
    return value if plain == filename else f"{value}; filename*=UTF-8''{quote(filename, safe='')}"
