"""The state of a run on disk: a killed run goes on from it as if nothing had been.

`state.pt` holds tensors and plain values only, loaded with `weights_only`; `log.jsonl` has one JSON object a line.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from model.training.config import ConfigError


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that nobody ever sees half of it: beside, fsync, rename, fsync of the folder."""
    part = path.with_name(f".{path.name}.part")
    write(part)
    part.chmod(0o644)  # safetensors makes files for their owner alone; a service may run as somebody else
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run atomically."""
    replace(path, lambda part: torch.save(dict(state), part))


def load(path: Path) -> dict[str, Any] | None:
    """The state of a run; None where there is none. Raises ConfigError where the file is no such state."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as e:
        raise ConfigError(f"{path}: no training state: {str(e).splitlines()[0]}") from e
    return state


class Log:
    """The rows of a run, appended as they come; rows after the step a run goes on from are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.rows = [row for row in read_log(path) if row["step"] <= step]
        replace(path, lambda part: _write_rows(part, self.rows))

    def add(self, row: dict[str, float]) -> None:
        """Append one row."""
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
