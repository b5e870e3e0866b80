"""`RecurrentState`: everything that the next chunk of a stream needs from earlier chunks."""

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
    """State of one stream between two chunks: a frozen value, never stored on a module.

    H x W is the LR size, h x w the same in feature pixels (`model.network.folding`). Frames are RGB in the number
    format of the stream, uint8 or uint16.
    """

    model: str
    """Fingerprint of the network (`Upscaler.fingerprint`)."""
    pending: Tensor
    """[P, H, W, 3] look-ahead frames received but not yet emitted."""
    last: Tensor | None = None
    """[H, W, 3] last emitted LR frame, to which `feat` belongs. None at the start and after a scene cut."""
    feat: Tensor | None = None
    """[C, h, w] forward features at `last`, in the network's number format."""
    hr: Tensor | None = None
    """[4 h, 4 w, 3] HR frame of `last`; unchanged tiles are copied from here."""
    reference: Tensor | None = None
    """[h, w, 3 f f] folded frame at the last computation of each tile, for the inter-frame mask."""
    index: Tensor | None = None
    """[] int64, number of frames emitted since the start of the scene; schedules refreshes."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the LR frames."""
        return self.pending.shape[1], self.pending.shape[2]

    def to(self, device: torch.device | str) -> RecurrentState:
        """Return the state on another device. `index` stays in host memory, where the planner reads the number."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self._tensors().items() if name != "index"}
        return replace(self, **moved)

    def save(self, path: Path) -> None:
        """Write a safetensors file, which `load` reads back bit for bit. Raises OSError if writing fails."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self._tensors().items()}
        write_tensors(tensors, path, {"version": _VERSION, "model": self.model})

    @classmethod
    def load(cls, path: Path) -> RecurrentState:
        """Read a file written by `save`. Raises StateMismatch if the file is damaged or of another kind."""
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
