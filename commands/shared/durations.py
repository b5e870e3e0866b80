"""Rounded durations for people."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ((90.0, 1.0, "s"), (90 * 60.0, 60.0, "min"), (48 * 3600.0, 3600.0, "h"))
"""For times below the first number: the unit's seconds, and its name. Longer times are days."""


def duration(seconds: float) -> str:
    """A rounded time: 45 s, 12 min, 3 h, 4 days."""
    for most, unit, name in _UNITS:
        if seconds < most:
            return f"{max(1, round(seconds / unit))} {name}"
    return f"{round(seconds / 86_400)} days"
