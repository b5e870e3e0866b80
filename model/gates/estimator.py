"""The confidence estimator: predicts for each tile the error of skipping a group of residual blocks.

A `Gate` stands before a group of blocks of a branch, or before the upsampler. A gate has two parts:

- The *surrogate* is one convolution. The surrogate replaces the group on tiles where the group changes little.
- The *head* predicts two errors of the HR tile from the features and the surrogate's output, averaged over the tile:
  the error that skipping adds, and the error of the network itself.

If the added error is below the error budget, a fraction of the frame's mean error, the tile takes the surrogate and the
group is skipped (`model.gates.skipping`). `model.training.fit_estimator` fits both parts to the frozen weights of a
network. Skipping blocks by an estimator is the idea of SkipVSR (ACM MM 2024). Its layers are not public; this project
designed its own.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from model.device import narrowed
from model.errors import BadWeights
from model.network.basicvsr import BasicVSR, Branch, NetworkConfig
from model.network.kernels import convolve
from model.routing import TILE
from model.zoo.header import header_of, write_tensors

FLOOR = 1e-3
"""Added to a mean of features before its logarithm; smaller means are noise of bfloat16."""
HIDDEN = 32
"""Width of the head."""
TRUNKS = ("backward_trunk.", "forward_trunk.")


@dataclass(frozen=True)
class Layout:
    """The groups of blocks that have gates."""

    backward: tuple[tuple[int, int], ...]
    """[first, last) block of each group of the backward branch, in order, without overlap."""
    forward: tuple[tuple[int, int], ...]
    """Groups of the forward branch."""
    tail: bool
    """Whether the upsampler has a gate; full tails only."""
    kernel: int = 3
    """Kernel size of the surrogates."""


class Gate(nn.Module):
    """Surrogate and head of one group; the surrogate maps `inputs` channels to `outputs` channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.surrogate = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2)
        self.head = nn.Sequential(nn.Linear(inputs + outputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))

    def change(self, x: Tensor) -> Tensor:
        """Apply the surrogate to features: [B, inputs, H, W] -> [B, outputs, H, W]."""
        return convolve(self.surrogate, x)

    @staticmethod
    def pooled(x: Tensor, change: Tensor) -> Tensor:
        """Return the log mean magnitudes over tiles that the head reads, [B, tiles down, tiles across, in + out]."""
        side = TILE // 2  # every second pixel of every second row is enough
        quarters = (y[..., ::2, ::2].abs() for y in (x, change))
        means = [F.avg_pool2d(y, side, ceil_mode=True, count_include_pad=False) for y in quarters]
        return torch.cat(means, dim=1).permute(0, 2, 3, 1).float().add_(FLOOR).log_()

    def expected(self, x: Tensor, change: Tensor) -> Tensor:
        """Predict the logarithm of added error over the frame's mean error, for each tile: [B, tiles down, across]."""
        added, own = self.head(self.pooled(x, change)).unbind(-1)
        mean = own.flatten(1).logsumexp(1) - math.log(own[0].numel())
        return added - mean.view(-1, 1, 1)  # type: ignore[no-any-return]


class GatedGroup(NamedTuple):
    """Blocks [first, last) of a trunk, and the gate before them."""

    first: int
    last: int
    gate: Gate


class Estimator(nn.Module):
    """The gates of a network with the given config; optionally also weights of the network adapted to the gates."""

    def __init__(self, config: NetworkConfig, layout: Layout, adapted: BasicVSR | None = None) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        c = config.channels
        self.backward_gates = nn.ModuleList(Gate(c, c, layout.kernel) for _ in layout.backward)
        self.forward_gates = nn.ModuleList(Gate(c, c, layout.kernel) for _ in layout.forward)
        self.tail_gate = Gate(4 * c, 3 * config.stride**2) if layout.tail else None  # reads `BasicVSR.coarse`
        self.adapted = adapted
        """Replaces the network wherever gates work; None: no adapted weights."""
        self.parts: tuple[str, ...] = ("",)
        """Name prefixes of the adapted weights; all other weights equal those of the network."""
        self.digest = ""
        """Hash of the file that the estimator was loaded from."""

    def groups(self, branch: Branch) -> list[GatedGroup]:
        """Return the gated groups of a branch in order."""
        spans = self.layout.backward if branch == "backward" else self.layout.forward
        modules = self.backward_gates if branch == "backward" else self.forward_gates
        return [GatedGroup(a, b, gate) for (a, b), gate in zip(spans, modules, strict=True) if isinstance(gate, Gate)]

    def ready(self, device: torch.device, dtype: torch.dtype) -> Estimator:
        """Prepare for inference, in place: surrogates and adapted weights in `dtype`, heads in float32."""
        self.eval().requires_grad_(False).to(device)
        parts = [module.surrogate for module in self.modules() if isinstance(module, Gate)]
        for part in (*parts, self.adapted):
            if part is not None:
                narrowed(part, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def save(self, path: Path, network: str, metadata: dict[str, str] | None = None) -> None:
        """Write a safetensors file; `network` is the fingerprint of the weights that the estimator was fitted to.

        Adapted weights become bfloat16. Buffers stay float32: they describe the input (SPyNet's mean and deviation).
        Raises OSError if writing fails.
        """
        tensors = {}
        weights = {name for name, _ in self.named_parameters() if name.startswith("adapted.")}
        for key, value in self.state_dict().items():
            if not key.startswith("adapted.") or key.removeprefix("adapted.").startswith(self.parts):
                dtype = torch.bfloat16 if key in weights else torch.float32
                tensors[key] = value.detach().to(dtype).cpu().contiguous()
        facts = {"config": json.dumps(asdict(self.config)), "layout": json.dumps(asdict(self.layout))}
        facts["adapted"] = json.dumps(self.parts if self.adapted else None)
        write_tensors(tensors, path, {**facts, "network": network, **(metadata or {})})


def load_estimator(path: Path, fingerprint: str, network: BasicVSR) -> Estimator | None:
    """Load the estimator in a file; None if the file is missing or was fitted to other weights.

    `network` and `fingerprint` come from `model.zoo.models.load_network`. Raises BadWeights for a damaged file.
    """
    if not path.is_file():
        return None
    try:
        data = path.read_bytes()
        facts = header_of(data).notes
        if facts["network"] != fingerprint:
            return None
        layout = json.loads(facts["layout"])
        spans = {branch: tuple((a, b) for a, b in layout[branch]) for branch in ("backward", "forward")}
        parts = json.loads(facts.get("adapted", "null"))
        parts = [""] if parts is True else parts  # older files: all weights adapted, or none
        shape = Layout(**spans, tail=layout["tail"], kernel=layout.get("kernel", 3))
        estimator = Estimator(network.config, shape, copy.deepcopy(network) if parts else None)
        estimator.parts = tuple(parts or ("",))
        stays = {
            f"adapted.{key}": value
            for key, value in network.state_dict().items()
            if parts and not key.startswith(estimator.parts)
        }
        estimator.load_state_dict(load(data) | stays)
    except (BadWeights, KeyError, ValueError, TypeError, RuntimeError, SafetensorError, OSError) as error:
        raise BadWeights(f"{path.name} holds no estimator: {str(error).splitlines()[0]}") from error
    if not all(bool(tensor.isfinite().all()) for tensor in estimator.state_dict().values()):
        raise BadWeights(f"{path.name}: some weights are not finite; fit the estimator again")
    estimator.digest = hashlib.sha256(data).hexdigest()[:16]
    return estimator.eval()
