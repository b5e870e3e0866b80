"""Kinds of faults, and the right values of the files that show them (`kinds.toml`)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.footage.job import Outcome

_FILE: Final = Path(__file__).with_name("kinds.toml")
_OPERATORS: Final = ("equals", "near", "at_least", "at_most", "matches", "lacks", "same_as", "like")


@dataclass(frozen=True)
class Check:
    """One right value."""

    kind: str
    file: str
    value: str
    operator: str
    wanted: Any
    options: dict[str, Any]

    @property
    def right(self) -> str:
        """The right value in words."""
        if self.operator == "like":
            return f"as {self.wanted['file']} ± {self.wanted['tolerance']:.0%}"
        words = {"equals": "", "near": "about ", "lacks": "not ", "same_as": "as ", "at_least": "≥ ", "at_most": "≤ "}
        return f"{words.get(self.operator, '')}{_short(self.wanted)}"


@dataclass(frozen=True)
class Verdict:
    """A check with the value found."""

    check: Check
    found: Any
    right: bool

    def as_plain(self) -> dict[str, Any]:
        """As JSON types."""
        check = self.check
        where = {"kind": check.kind, "file": check.file, "options": check.options, "value": check.value}
        return {**where, "found": self.found, "right_value": check.right, "right": self.right}


def kinds() -> dict[str, str]:
    """Name → title of each kind."""
    return {name: entry["title"] for name, entry in _read().items()}


def checks(file: str | None = None) -> list[Check]:
    """All checks, or those of one file."""
    found = []
    for kind, entry in _read().items():
        for row in entry["checks"]:
            (operator,) = [name for name in _OPERATORS if name in row]
            found.append(Check(kind, row["file"], row["value"], operator, row[operator], dict(row.get("options", {}))))
    return [check for check in found if file in (None, check.file)]


def _read() -> dict[str, Any]:
    with _FILE.open("rb") as file:
        return tomllib.load(file)


def judge(check: Check, outcome: Outcome, others: Mapping[str, Outcome]) -> Verdict:
    """Compare an outcome with a right value.

    Args:
        others: outcomes of other files with the default options, by name.
    """
    found = _value(outcome.as_plain(), check.value)
    wanted = check.wanted
    if check.operator == "same_as":
        wanted = _value(outcome.as_plain(), check.wanted)
    elif check.operator == "like":
        other = others.get(check.wanted["file"])
        wanted = _value(other.as_plain(), check.value) if other else None
    right = outcome.state in ("done", "refused", "failed") and _compare(check, found, wanted)
    return Verdict(check, found, right)


def _compare(check: Check, found: Any, wanted: Any) -> bool:
    operator = check.operator
    if operator in ("equals", "same_as"):
        return bool(found == wanted) and found is not None
    if operator in ("matches", "lacks"):
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
        return (re.search(wanted, text, re.IGNORECASE) is None) == (operator == "lacks") and found is not None
    if not isinstance(found, int | float) or wanted is None:
        return False
    if operator == "near":
        return bool(abs(found - wanted[0]) <= wanted[1])
    if operator == "like":
        return bool(abs(found - wanted) <= check.wanted["tolerance"] * wanted)
    return bool(found >= wanted) if operator == "at_least" else bool(found <= wanted)


def _value(plain: Any, path: str) -> Any:
    for name in path.split("."):
        if isinstance(plain, list):
            plain = plain[int(name)] if int(name) < len(plain) else None
        else:
            plain = plain.get(name) if isinstance(plain, dict) else None
    return plain


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(item, int | float) for item in value):
        return f"{value[0]:g} ± {value[1]:g}"
    return str(value)
