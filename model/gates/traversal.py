"""The gated trunk: the order of input convolution, residual blocks and gates.

Inference (`model.gates.skipping`), adaptation and estimator fitting (`model.training`) decide at a gate in different
ways. All three pass their decision to `run_gated`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from model.gates.estimator import Gate, GatedGroup
from model.network.basicvsr import Blocks, Trunk

Decision = Callable[[int, Gate, Blocks, Tensor, Tensor], Tensor]
"""(number of the gate, gate, blocks of its group, x, change) -> the group's output; all tensors [B, C, H, W].

`x` is the input of the group, `change` the surrogate's output. Where a tile is skipped, `x + change` replaces the
blocks.
"""


def run_gated(trunk: Trunk, groups: Sequence[GatedGroup], x: Tensor, decide: Decision) -> Tensor:
    """Run a trunk on its input [B, in, H, W]; `decide` computes each gated group: [B, C, H, W].

    Blocks outside the groups run everywhere. Without groups this is `trunk(x)`.
    """
    x, at = trunk.head(x), 0
    for number, group in enumerate(groups):
        x = trunk.part(at, group.first)(x)
        x = decide(number, group.gate, trunk.part(group.first, group.last), x, group.gate.change(x))
        at = group.last
    return trunk.part(at, len(trunk.blocks))(x)  # type: ignore[no-any-return]
