"""`RecurrentState`: all that the next chunk of a stream needs of the ones before."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import StateMismatch
from model.zoo.header import write_tensors

_VERSION = "1"


@dataclass(frozen=True)
class RecurrentState:
    """State of one stream between two chunks: a value, never stored on a module.

    H x W is the LR size; frames are uint8 or uint16 RGB, height x width x channel, as they came in.
    """

    model: str
    """Fingerprint of the network that made the state (`Upscaler.fingerprint`)."""
    pending: Tensor
    """[P, H, W, 3] look-ahead frames that were seen, but not yet emitted."""
    last: Tensor | None = None
    """[H, W, 3] the last emitted LR frame: flow to it aligns `feat`. None at the start and after a scene cut."""
    feat: Tensor | None = None
    """[C, H, W] forward hidden features at `last`, in the network's type."""
    hr: Tensor | None = None
    """[4 H, 4 W, 3] the HR frame of `last`, from which unchanged tiles are taken over."""
    reference: Tensor | None = None
    """[H, W, 3] for each tile the LR frame that `feat` and `hr` were computed on there: the mask's memory."""
    index: Tensor | None = None
    """[] int64: frames emitted since the start of the scene, by which refreshes are spread."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the LR frames."""
        return self.pending.shape[1], self.pending.shape[2]

    def to(self, device: torch.device | str) -> RecurrentState:
        """The same state on another device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self._tensors().items()}
        return replace(self, **moved)

    def save(self, path: Path) -> None:
        """Write it as safetensors; `load` gives it back bit for bit. OSError where that fails."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self._tensors().items()}
        write_tensors(tensors, path, {"version": _VERSION, "model": self.model})

    @classmethod
    def load(cls, path: Path) -> RecurrentState:
        """Read what `save` wrote. Raises StateMismatch where the file is something else or damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise StateMismatch(f"{path.name} is not a readable recurrent state: {error}") from error
        if metadata.get("version") != _VERSION or not tensors.keys() <= {f.name for f in fields(cls)}:
            raise StateMismatch(f"{path.name} is a recurrent state of another version of SkipVSR; start the job again")
        return cls(model=metadata["model"], **tensors)

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
