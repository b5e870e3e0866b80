"""The state of a run on disk; a killed run resumes from the state with identical results.

`state.pt` holds tensors and plain values only and is loaded with `weights_only`. `log.jsonl` has one JSON object per
line.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from model.errors import ConfigError

if TYPE_CHECKING:
    from model.training.config import TrainConfig


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file atomically: write beside, fsync, rename, fsync the folder."""
    part = path.with_name(f".{path.name}.part")
    write(part)
    part.chmod(0o644)  # safetensors lets only the owner read; a service may run as another user
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
    """Load the state of a run; None without a file. Raises ConfigError if the file is damaged or of another kind."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as e:
        raise ConfigError(f"{path}: not a training state: {str(e).splitlines()[0]}") from e
    return state


def check_same_run(state: Mapping[str, Any], config: TrainConfig, processes: int, out: Path) -> None:
    """Check that a state belongs to the configured run. Raises ConfigError, which names the difference.

    Options that change at most rounding may differ: threads, device, and the intervals of log, validation and
    checkpoints. The number of steps may not differ, since the cosine of the learning rate ends with the last step. To
    train longer, or on other data, start a new run with `init`. States of old versions hold no configuration; only
    their number of steps is checked.
    """
    remedy = f"use another --out ({out.name}/last.safetensors can be its `init`), or restore the configuration"
    if (stored := state.get("config")) is not None and (other := config.differs_from_stored(stored)):
        raise ConfigError(f"{out}: holds a run with another {other}: {remedy}")
    if (before := state.get("processes", processes)) != processes:
        raise ConfigError(f"{out}: holds a run with another number of processes ({before}, now {processes}): {remedy}")
    total = config.flow_steps + config.steps
    if state["step"] > total:
        raise ConfigError(
            f"{out}: holds a run at step {state['step']}, but the configuration ends at step {total}: {remedy}"
        )


class Log:
    """The log of a run; rows after the step of the resumed state are dropped."""

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
    """Read the rows of a log, without a last line that a kill truncated."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
