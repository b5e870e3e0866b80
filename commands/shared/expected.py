"""Sentences about the expected size and time of a job: "1920×1080 → 3840×2160, about 12 min"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commands.shared.durations import duration


def sentence(source: tuple[int, int], estimate: Mapping[str, Any], wait_seconds: float | None = None) -> str:
    """Describe an estimate; `estimate` has the fields of `jobs.schema.Estimate`."""
    text = "{}×{} → {}×{}, {}".format(*source, estimate["width"], estimate["height"], about(estimate["seconds"]))
    return f"{text}, after {about(wait_seconds)} in the queue" if wait_seconds and wait_seconds >= 1 else text


def about(seconds: float) -> str:
    """A rounded time: "about 12 min"."""
    return f"about {duration(seconds)}"
