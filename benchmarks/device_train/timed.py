"""A training run that ends in time.

The warm-up measures the rate. The number of steps is then what the remaining time holds, validation and export
excluded, and the cosine of the learning rate ends with the last step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import torch

from benchmarks.device_train.recipes import DeviceRecipe
from model.errors import ConfigError
from model.network.basicvsr import BasicVSR
from model.training.checkpoint import replace as replace_file
from model.training.data import Sampler
from model.training.loop import Trainer
from model.training.validate import bicubic, validate
from model.zoo.weights_file import save_network

Say = Callable[[str], None]
Row = dict[str, float]

RESERVE: Final = 0.04
"""Part of the time for training that stays unused: steps may slow down."""
MOST_WARMUP: Final = 0.2
"""Part of the time after which the warm-up ends early, on slow devices."""
_UNCOUNTED: Final = 3
"""First steps that the rate leaves out: the device chooses its algorithms."""


@dataclass(frozen=True)
class Budget:
    """Time of a run. `end` is a time of `time.monotonic`."""

    end: float
    validate_every: float = 90.0

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - time.monotonic()


class TimedRun:
    """One run; writes `NAME.jsonl`, `NAME.safetensors` and, at the best validation, `NAME-best.safetensors` to `out`.

    Weights are the moving average, in half precision: 13 MB for BasicVSR.
    """

    def __init__(
        self, name: str, recipe: DeviceRecipe, cache: Path, out: Path, device: torch.device, budget: Budget, say: Say
    ) -> None:
        self._name, self._cache, self._out, self._budget, self._say = name, cache, out, budget, say
        self._trainer = Trainer(recipe, device)
        self._sampler = Sampler(cache, recipe, device=device)
        self._recipe = recipe
        self._rows: list[Row] = []
        self._begun = self._validated = time.monotonic()
        self._validation_seconds = 0.0
        self._best = float("-inf")

    def run(self) -> list[Row]:
        """Train until the cosine ends or the time is over; return the rows of the log.

        Raises ConfigError if the run diverges; the weights before are on disk.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        self._say(f"{self._name}: bicubic {_text(bicubic(self._cache))}")
        self._validate()
        self._warm_up()
        for lr, hr in self._batches(self._recipe.steps):
            self._trainer.train_step(lr, hr)
            if self._budget.left() <= self._validation_seconds * 1.5:
                self._say(f"{self._name}: the time is over at step {self._trainer.step} of {self._recipe.steps}")
                break
            if time.monotonic() - self._validated >= self._budget.validate_every:
                self._validate()
        self._validate()
        return self._rows

    def _warm_up(self) -> None:
        """Run the warm-up, measure the rate, and set the number of steps."""
        times, end = list[float](), time.monotonic() + MOST_WARMUP * self._budget.left()
        for lr, hr in self._batches(self._recipe.warmup):
            begun = time.monotonic()
            self._trainer.train_step(lr, hr)  # reads the loss, and so waits for the device
            times.append(time.monotonic() - begun)
            if time.monotonic() > end:
                break
        rate = median(times[_UNCOUNTED:] or times)
        done, steps = self._trainer.step, self._steps(rate)
        self._recipe = replace(self._recipe, warmup=done, steps=done + steps)
        self._trainer.config = self._recipe
        self._say(f"{self._name}: {rate:.3f} s a step, so {self._recipe.steps} steps; {self._budget.left():.0f} s left")

    def _steps(self, seconds: float) -> int:
        """Return the number of steps of `seconds` each that the time holds beside validation."""
        left = self._budget.left() * (1 - RESERVE)
        validations = left // self._budget.validate_every + 1
        return max(int((left - validations * self._validation_seconds) / seconds), 1)

    def _batches(self, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of the steps up to `stop`; a thread prepares them."""
        return self._sampler.batches(self._trainer.step, stop, lambda _: self._recipe.shape)

    def _validate(self) -> None:
        """Validate the moving average, add a row to the log, and write the weights."""
        begun = time.monotonic()
        trainer = self._trainer
        row: Row = trainer.row() if trainer.sums[2] else {"step": trainer.step}
        row |= validate(trainer.averaged(), self._cache, trainer.device)
        row["seconds"] = round(begun - self._begun, 1)
        self._rows.append(row)
        text = "".join(json.dumps(each) + "\n" for each in self._rows)
        replace_file(self._out / f"{self._name}.jsonl", lambda part: _write(part, text))
        self._export(self._name)
        score = sum(value for name, value in row.items() if name.startswith("psnr_"))
        if score > self._best and trainer.step:
            self._best = score
            self._export(f"{self._name}-best")
        self._say(f"{self._name}: step {trainer.step}  {_text(row)}")
        self._validated = time.monotonic()
        self._validation_seconds = max(self._validation_seconds, self._validated - begun)

    def _export(self, name: str) -> None:
        network, notes = self._trainer.result(), {"step": str(self._trainer.step)}
        assert isinstance(network, BasicVSR)
        path = self._out / f"{name}.safetensors"
        replace_file(path, lambda part: save_network(network, part, notes, torch.float16))


def check_finite(rows: list[Row]) -> None:
    """Raise ConfigError if a run has no validation, or lost more than a decibel."""
    scores = [sum(value for name, value in row.items() if name.startswith("psnr_")) for row in rows]
    if len(scores) < 2 or not all(score == score for score in scores):
        raise ConfigError("the run has no validation clips, or PSNR is no number")
    if scores[-1] < scores[0] - 2:
        raise ConfigError(f"the run lost {scores[0] - scores[-1]:.1f} dB in sum")


def _text(row: Row) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")


def _write(part: Path, text: str) -> None:
    part.write_text(text)
