"""Differences between a source and its result that nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final

from media.tracks.tags import copied_tags

_TOLERANCE_MS: Final = 1.0
"""Matroska counts milliseconds."""
_CONVERSION_SECONDS: Final = 0.1
"""Encoders of sound add priming samples, and fill the last packet."""
_NOT_TAGS: Final = ("creation_time", "language", "handler_name")


def differences(source: dict[str, Any] | None, result: dict[str, Any] | None) -> list[str]:
    """Sentences about a result. Empty if everything is as in the source."""
    if not source or not result or not source.get("picture") or not result.get("picture"):
        return []
    return [*_picture(source["picture"], result["picture"]), *_file(source, result), *_tracks(source, result)]


def _picture(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    if before["frames"] != after["frames"]:
        yield f"frames {before['frames']} → {after['frames']}"
    for name in ("average_rate", "sample_aspect_ratio", "rotation"):
        if before[name] != after[name] and not _nearly(name, before[name], after[name]):
            yield f"{name.replace('_', ' ')} {before[name]} → {after[name]}"
    for name in ("shortest_step_ms", "longest_step_ms", "last_ms"):
        if None not in (before[name], after[name]) and abs(before[name] - after[name]) > _TOLERANCE_MS:
            yield f"{name.replace('_', ' ')} {before[name]:g} → {after[name]:g}"
    names = ("primaries", "transfer", "matrix", "range")
    for name, old, new in zip(names, before["colors"], after["colors"], strict=True):
        if old not in (new, 2, 0) and name != "range":
            yield f"{name} {old} → {new}"


def _nearly(name: str, before: Any, after: Any) -> bool:
    """Whether two rates differ by rounding alone."""
    if name != "average_rate" or None in (before, after):
        return False
    return abs(Fraction(after) / Fraction(before) - 1) < Fraction(1, 2000)


def _file(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    # Priming samples of a codec are played or not, depending on the container: a copy keeps its packets' times.
    name = "offset_ms" if _first_sound(before) == _first_sound(after) else "heard_offset_ms"
    if None not in (before[name], after[name]):
        moved = after[name] - before[name]
        if abs(moved) > _TOLERANCE_MS:
            yield f"sound moved by {moved:+.4g} ms"
    missing = [
        name
        for name in copied_tags(before["tags"])
        if name not in _NOT_TAGS and before["tags"][name] != after["tags"].get(name)
    ]
    if missing:
        yield f"tags {', '.join(sorted(missing))} lost or changed"
    if before["chapters"] != after["chapters"]:
        yield f"chapters {len(before['chapters'])} → {len(after['chapters'])}"


def _first_sound(facts: dict[str, Any]) -> str | None:
    return next((track["codec"] for track in facts["tracks"] if track["kind"] == "audio"), None)


def _tracks(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for kind in ("audio", "subtitle"):
        old = [track for track in before["tracks"] if track["kind"] == kind]
        new = [track for track in after["tracks"] if track["kind"] == kind]
        if len(old) != len(new):
            yield f"{kind} tracks {len(old)} → {len(new)}"
            continue
        for one, other in zip(old, new, strict=True):
            yield from _track(one, other)


def _track(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    label = f"track {before['index']}"
    if before["codec"] != after["codec"]:
        yield f"{label} {before['codec']} → {after['codec']}"
    elif before["kind"] == "audio" and before["sha256"] != after["sha256"]:
        yield f"{label} has other packets ({before['packets']} → {after['packets']})"
    for name in ("language", "sample_rate", "channels"):
        if before[name] not in (None, "und", after[name]):
            yield f"{label} {name.replace('_', ' ')} {before[name]} → {after[name]}"
    if before["kind"] == "audio" and None not in (before["seconds"], after["seconds"]):
        if abs(before["seconds"] - after["seconds"]) > _CONVERSION_SECONDS:
            yield f"{label} {before['seconds']:g} s → {after['seconds']:g} s"
        if after["longest_gap"] > before["longest_gap"] + _CONVERSION_SECONDS:
            yield f"{label} has a gap of {after['longest_gap']:g} s"
