"""The confidence estimator: what would each group of residual blocks still change in a tile, and what to do instead?

A `Gate` stands before a group of blocks of a branch, or before the upsampler. It holds

- a *surrogate*, one 3x3 convolution that does the group's work nearly as well where there is little of it to do, and
- a *head*: from the features and from what the surrogate does with them, averaged over a tile, it predicts how large
  an error skipping would add to the HR tile, and how large the error is that the network makes there anyway.

Where the first is below a fraction of the frame's mean of the second, the tile takes the surrogate, and the group is
not run (`model.gates.skipping`). Both parts
are fitted to a network's frozen weights by `model.training.fit_estimator`. That blocks are skipped where an estimator
expects little of them is SkipVSR's idea (ACM MM 2024); its layers are not public, these are this project's own.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from model.device import narrowed
from model.errors import BadWeights
from model.network.basicvsr import SCALE, BasicVSR, NetworkConfig
from model.network.kernels import convolve
from model.routing import TILE
from model.zoo.header import header_of, write_tensors

FLOOR = 1e-3
"""Added to a mean of features before its logarithm: less than that is noise of bfloat16."""
HIDDEN = 32
TRUNKS = ("backward_trunk.", "forward_trunk.")


@dataclass(frozen=True)
class Layout:
    """Which groups of blocks have gates."""

    backward: tuple[tuple[int, int], ...]
    """First block and the one after the last, of each group of the backward branch, in order, none overlapping."""
    forward: tuple[tuple[int, int], ...]
    """The same of the forward branch."""
    tail: bool
    """Whether the upsampler, of a network with the full one, has a gate too."""
    kernel: int = 3
    """Side of the surrogates' convolutions."""


class Gate(nn.Module):
    """Surrogate and head of one group: `inputs` channels go in, the surrogate gives `outputs`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.surrogate = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2)
        self.head = nn.Sequential(nn.Linear(inputs + outputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))

    def change(self, x: Tensor) -> Tensor:
        """What the surrogate makes of the features [B, inputs, H, W]: [B, outputs, H, W]."""
        return convolve(self.surrogate, x)

    @staticmethod
    def pooled(x: Tensor, change: Tensor) -> Tensor:
        """What the head looks at: logarithms of mean magnitudes over tiles, [B, tiles down, tiles across, in + out]."""
        side = TILE // 2  # every other pixel of every other row says enough
        quarters = (y[..., ::2, ::2].abs() for y in (x, change))
        means = [F.avg_pool2d(y, side, ceil_mode=True, count_include_pad=False) for y in quarters]
        return torch.cat(means, dim=1).permute(0, 2, 3, 1).float().add_(FLOOR).log_()

    def expected(self, x: Tensor, change: Tensor) -> Tensor:
        """Logarithm of the error that skipping adds to each tile, over the frame's mean: [B, tiles down, across]."""
        added, own = self.head(self.pooled(x, change)).unbind(-1)
        mean = own.flatten(1).logsumexp(1) - math.log(own[0].numel())
        return added - mean.view(-1, 1, 1)  # type: ignore[no-any-return]


class Estimator(nn.Module):
    """The gates of a network of that configuration, and the network's weights, where they were adapted to the gates."""

    def __init__(self, config: NetworkConfig, layout: Layout, adapted: BasicVSR | None = None) -> None:
        super().__init__()
        self.config, self.layout = config, layout
        c = config.channels
        self.backward_gates = nn.ModuleList(Gate(c, c, layout.kernel) for _ in layout.backward)
        self.forward_gates = nn.ModuleList(Gate(c, c, layout.kernel) for _ in layout.forward)
        self.tail_gate = Gate(4 * c, 3 * SCALE * SCALE) if layout.tail else None  # sees `BasicVSR.coarse`
        self.adapted = adapted
        """Runs in the network's stead wherever gates are at work; None: the network itself does."""
        self.parts: tuple[str, ...] = ("",)
        """What the names of those of its weights begin with that were adapted; all others are the network's own."""
        self.digest = ""
        """Tells the file that it was loaded from apart from others."""

    def gates(self, branch: str) -> list[tuple[int, int, Gate]]:
        """(first block, the one after the last, gate) of the branch `backward` or `forward`."""
        spans = self.layout.backward if branch == "backward" else self.layout.forward
        modules = self.backward_gates if branch == "backward" else self.forward_gates
        return [(a, b, gate) for (a, b), gate in zip(spans, modules, strict=True) if isinstance(gate, Gate)]

    def ready(self, device: torch.device, dtype: torch.dtype) -> Estimator:
        """This estimator for use beside a network on that device: surrogates in its type, heads in float32."""
        self.eval().requires_grad_(False).to(device)
        parts = [module.surrogate for module in self.modules() if isinstance(module, Gate)]
        for part in (*parts, self.adapted):
            if part is not None:
                narrowed(part, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def save(self, path: Path, network: str, metadata: dict[str, str] | None = None) -> None:
        """Write it as safetensors; `network` is the fingerprint of the weights that it belongs to.

        Adapted weights become bfloat16, which the network computes in where it can; what it knows of its input
        (SPyNet's mean and deviation) does not.
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
    """The estimator in a file, or None where there is no file, or where it was fitted to other weights.

    `network` and `fingerprint` are what `model.zoo.models.load_network` returns. Raises BadWeights on a damaged file.
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
        parts = [""] if parts is True else parts  # so it was written while all weights were adapted or none
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
        raise BadWeights(f"{path.name}: some of its weights are no numbers; fit it anew")
    estimator.digest = hashlib.sha256(data).hexdigest()[:16]
    return estimator.eval()
