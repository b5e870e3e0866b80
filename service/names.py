"""Sanitised names of files that clients send."""

from __future__ import annotations

import unicodedata

_MAX_NAME = 120
_MAX_SUFFIX = 12


def harmless_name(name: str) -> str:
    """Sanitise a client's file name: last path component, no control characters, at most 120 characters."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(c for c in name if unicodedata.category(c)[0] != "C").strip().strip(".")
    if len(name) > _MAX_NAME:
        stem, dot, suffix = name.rpartition(".")
        short_suffix = dot and len(suffix) < _MAX_SUFFIX
        name = f"{stem[: _MAX_NAME - 1 - len(suffix)]}.{suffix}" if short_suffix else name[:_MAX_NAME]
    return name or "video"
