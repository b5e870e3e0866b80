"""Durations for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_ROUNDED: Final = ((90.0, 1.0, "s"), (90 * 60.0, 60.0, "min"), (48 * 3600.0, 3600.0, "h"))
"""For times below the first number: the unit's seconds, and its name. Longer times are days."""


def duration(seconds: float) -> str:
    """A duration in its largest whole unit: 45 s, 12 min, 3 h, 2 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def expectation(source: tuple[int, int], estimate: Mapping[str, Any], wait_seconds: float | None = None) -> str:
    """Describe a document of `jobs.schema.Estimate`: "1920×1080 → 3840×2160, about 12 min"."""
    text = "{}×{} → {}×{}, {}".format(*source, estimate["width"], estimate["height"], about(estimate["seconds"]))
    return f"{text}, after {about(wait_seconds)} in the queue" if wait_seconds and wait_seconds >= 1 else text


def about(seconds: float) -> str:
    """A rounded time, for estimates: about 12 min."""
    for most, unit, name in _ROUNDED:
        if seconds < most:
            return f"about {max(1, round(seconds / unit))} {name}"
    return f"about {round(seconds / 86_400)} days"
