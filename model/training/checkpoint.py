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
from pydantic import ValidationError

from model.training.config import ConfigError, TrainConfig


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


def belongs(state: Mapping[str, Any], config: TrainConfig, processes: int, out: Path) -> None:
    """Check that the run of a state is the one configured; raises ConfigError that names what differs.

    What changes nothing of its curve, or rounding alone, may differ: threads, device, and what is done every so many
    steps. More steps may not, as the learning rate's cosine ends with the last: those that are done would have been
    others. Nor may fewer. To train for longer, or on other data, begin another run with `init`.
    A state from before it held a configuration is only held to the number of steps.
    """
    remedy = f"name another --out ({out.name}/last.safetensors may be its `init`), or set it back"
    if (stored := state.get("config")) is not None:
        try:  # what a later version adds has its default in what ran before
            other = config.differs(TrainConfig.model_validate(stored))
        except ValidationError:
            other = "the version that it was begun by"
        if other:
            raise ConfigError(f"{out}: holds a run with another {other}: {remedy}")
    if (before := state.get("processes", processes)) != processes:
        raise ConfigError(f"{out}: holds a run of another number of processes ({before}, now {processes}): {remedy}")
    total = config.flow_steps + config.steps
    if state["step"] > total:
        raise ConfigError(
            f"{out}: holds a run that is at step {state['step']}, the configuration ends at {total}: {remedy}"
        )


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
