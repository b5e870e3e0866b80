"""The table at the end of a run: at most 60 lines; the JSON file has the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.device.results import Results, Section, Value

MOST: Final = 60
"""Lines of the table."""
_WIDTH: Final = 150
_ROWS: Final = {"ceilings": 12, "speed": 17, "variants": 12}
"""Most rows of each section in the table; others appear by their checks alone."""


def table(results: Results) -> str:
    """Return the table: facts, failed checks, checks and rows by section, and what was not measured."""
    lines = [_joined(results.about)] if results.about else []
    lines += [f"FAILED {check.name}: {check.detail}" for check in results.failed[:8]]
    for section in results.sections:
        lines += _section(section)
    missing = [f"{section.name}/{name}" for section in results.sections for name in section.not_measured]
    if missing:
        lines.append(f"not measured ({len(missing)}): {'; '.join(missing)}")
    lines.append(_verdict(results))
    if len(lines) > MOST:
        lines = [*lines[: MOST - 2], f"… {len(lines) - MOST + 1} more lines: device.json", lines[-1]]
    return "\n".join(line[:_WIDTH] for line in lines)


def _section(section: Section) -> Iterator[str]:
    good = sum(check.ok for check in section.checks)
    checks = f", {good} of {len(section.checks)} checks hold" if section.checks else ""
    yield f"== {section.name}: {section.seconds:.0f} s{checks}"
    if section.name == "speed":
        yield from _speeds(section)
        return
    for row in section.rows[: _ROWS.get(section.name, 4)]:
        yield f"   {_joined(row)}"


def _speeds(section: Section) -> Iterator[str]:
    """A line for each network, size and number format; the routings side by side."""
    grouped: dict[str, list[str]] = {}
    for row in section.rows:
        cell = f"{row['routing']} {_text(row['frames_per_second'])}/s"
        if row.get("launches") is not None:
            cell += f" ({_text(row['launches'])} launches, {_text(row['synchronisations'])} syncs)"
        grouped.setdefault(f"{row['model']:<13} {row['size']:<9} {row['format']}", []).append(cell)
    for name, cells in list(grouped.items())[: _ROWS["speed"]]:
        yield f"   {name}  {'  '.join(cells)}"


def _verdict(results: Results) -> str:
    checks = sum(len(section.checks) for section in results.sections)
    seconds = sum(section.seconds for section in results.sections)
    return f"{checks - len(results.failed)} of {checks} checks hold; {seconds:.0f} s"


def _joined(row: dict[str, Value]) -> str:
    name = row.get("name")
    rest = [f"{key} {_text(value)}" for key, value in row.items() if key != "name"]
    return "  ".join([f"{name:<28}", *rest] if name is not None else rest)


def _text(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
