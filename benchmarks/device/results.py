"""Results of a run: rows, checks and what was not reached, by section; a JSON file after each section."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Value = str | float | int | bool | None


@dataclass(frozen=True)
class Check:
    """A right value: what was compared, whether the comparison holds, and the figure."""

    name: str
    ok: bool
    detail: str


@dataclass
class Section:
    """Results of one section."""

    name: str
    rows: list[dict[str, Value]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)
    """Names of the items that were not reached in time, or that this device does not have."""
    seconds: float = 0.0

    def row(self, name: str, **values: Value) -> None:
        """Add a row of figures."""
        self.rows.append({"name": name, **values})

    def check(self, name: str, ok: bool, detail: str) -> None:
        """Add a check."""
        self.checks.append(Check(name, bool(ok), detail))

    def at_most(self, name: str, value: float, limit: float) -> None:
        """Check that a value is finite and at most `limit`."""
        self.check(name, math.isfinite(value) and value <= limit, f"{value:.3g}, at most {limit:.3g}")

    def at_least(self, name: str, value: float, limit: float) -> None:
        """Check that a value is a number and at least `limit`."""
        self.check(name, value >= limit, f"{value:.4g}, at least {limit:.4g}")

    def skip(self, name: str, why: str) -> None:
        """Say that an item was not measured, and why."""
        self.not_measured.append(f"{name}: {why}")


@dataclass
class Results:
    """Results of a run so far."""

    folder: Path
    about: dict[str, Value] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        """Checks that do not hold."""
        return [check for section in self.sections for check in section.checks if not check.ok]

    def write(self) -> None:
        """Write `device.json`; a killed run leaves the file of the section before."""
        document: dict[str, Any] = {
            "about": self.about,
            "failed": [check.name for check in self.failed],
            "sections": [asdict(section) for section in self.sections],
        }
        part = self.folder / ".device.json"
        part.write_text(json.dumps(_plain(document), indent=1) + "\n")
        part.replace(self.folder / "device.json")


def _plain(value: Any) -> Any:
    """Replace infinite numbers, which JSON lacks, by their names."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
