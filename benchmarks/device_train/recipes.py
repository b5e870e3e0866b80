"""The runs of `benchmarks.device_train`: recipes for the trainer, without pydantic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model.network.basicvsr import NetworkConfig


@dataclass(frozen=True)
class Shape:
    """Shape of a batch: `batch` clips of `frames` x `patch` x `patch` LR pixels."""

    batch: int
    frames: int
    patch: int


@dataclass(frozen=True)
class DeviceRecipe:
    """A recipe of `model.training.recipe`; `model.training.config.TrainConfig` documents the settings."""

    network_config: NetworkConfig
    shape: Shape
    init: Path | None
    lr: float
    clean_share: float
    photo_share: float
    photometric: float
    flow_frozen: int = 0
    flow_lr_scale: float = 1.0
    final_lr: float = 1e-6
    warmup: int = 60
    steps: int = 1_000_000
    """Set from the measured rate after the warm-up."""
    seed: int = 31
    ema: float = 0.999
    clip_grad: float = 1.0
    loss: str = "charbonnier"
    precision: str = "auto"
    clean: str = "bi"
    bars: float = 0.0
    flow_steps: int = 0
    gates: None = None

    @property
    def stages(self) -> Sequence[Shape]:
        """The only shape."""
        return (self.shape,)


FROZEN: Final = 1_000_000_000
_SMALL: Final = NetworkConfig(32, 4, "light", "light", coupled=True)


def recipe(name: str, init: Path | None, *, tiny: bool) -> DeviceRecipe:
    """Return the recipe of a run: `basicvsr` or `small`.

    `basicvsr` teaches the official REDS weights compressed clips; the flow stays as it is. `small` continues training
    of the packaged default. `tiny` has the same settings with a tiny network and random weights.
    """
    if name == "basicvsr":
        network, shape = NetworkConfig(), Shape(16, 7, 64)
        made = DeviceRecipe(network, shape, init, 2e-4, 0.2, 0.3, 0.0, flow_frozen=FROZEN, flow_lr_scale=0.125)
    else:
        made = DeviceRecipe(_SMALL, Shape(32, 9, 64), init, 3e-4, 0.4, 0.4, 0.05)
    if not tiny:
        return made
    small = NetworkConfig(8, 1, "light", made.network_config.tail, made.network_config.coupled)
    numbers = {name: getattr(made, name) for name in ("lr", "clean_share", "photo_share", "photometric", "flow_frozen")}
    return DeviceRecipe(small, Shape(1, 3, 16), None, **numbers, warmup=4)
