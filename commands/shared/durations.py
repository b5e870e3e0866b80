"""Durations for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration in its largest whole unit: 45 s, 12 min, 3 h, 2 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
