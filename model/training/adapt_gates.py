"""Adapt a network to its gates: train the weights until easy tiles need few blocks.

`model.training.fit_estimator` fits surrogates and heads to frozen weights. Here the heads stay frozen, while network
and surrogates train together on clips in which the heads decide about skipping. *Temporal feature alignment* (SkipVSR,
ACM MM 2024) holds the features of both branches to those of the dense twin, the unchanged network. Alignment covers
whole sequences, since the error of skipping grows with their length. Fit the heads again afterwards.

Gates trained with straight-through gradients and a budget were far worse: lab notebook.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from model.errors import ConfigError, ModelError
from model.gates.estimator import TRUNKS, Estimator, Gate, load_estimator
from model.gates.skipping import cells_to_run
from model.gates.traversal import run_gated
from model.network.basicvsr import BasicVSR, Blocks, Branch, TrunkFunction
from model.network.folding import fold
from model.training.objective import charbonnier, clip_flows, flow_loss

if TYPE_CHECKING:
    from model.training.config import GateSection


def gated_network(network: BasicVSR, section: GateSection, fingerprint: str) -> Estimator:
    """Load the configured gates together with the weights to adapt: those adapted before, else a copy of `network`.

    `fingerprint` belongs to `network`. Raises ConfigError.
    """
    try:
        estimator = load_estimator(section.init, fingerprint, network)
    except ModelError as error:
        raise ConfigError(f"gates: {error}") from error
    if estimator is None:
        raise ConfigError(f"gates: {section.init} is missing, or was fitted to other weights than those of `init`")
    moving = TRUNKS if section.adapt == "trunks" else ("",)
    if estimator.adapted is None or moving == ("",):  # weights adapted by an earlier run stay part of the estimator
        estimator.parts = moving
    estimator.adapted = estimator.adapted or copy.deepcopy(network)
    learns = [gate.surrogate for gate in (*estimator.backward_gates, *estimator.forward_gates)]
    estimator.requires_grad_(False)
    for part in learns:
        part.requires_grad_(True)
    for name, parameter in estimator.adapted.named_parameters():
        parameter.requires_grad_(name.startswith(moving))
    return estimator


class GatedClip(nn.Module):
    """A gated network over a whole clip: [B, T, 3, H, W] -> [B, T, 3, s H, s W]."""

    def __init__(self, estimator: Estimator, error_budget: float) -> None:
        super().__init__()
        self.estimator, self.error_budget = estimator, error_budget
        self.skipped: list[Tensor] = []
        """Decisions of the gates in the last clip, [B, 1, cells down, cells across]: True skips."""
        self.features: list[Tensor] = []
        """Features [B, C, H, W] of the last clip: first the backward branch, then the forward branch."""

    @property
    def network(self) -> BasicVSR:
        """The network behind the gates."""
        assert self.estimator.adapted is not None
        return self.estimator.adapted

    def forward(self, lr: Tensor) -> Tensor:
        folded = fold(lr, self.network.fold)
        return self.network.cropped(self.propagate(folded, *self.network.flows(folded)), lr)

    def propagate(self, lr: Tensor, to_next: Tensor | None, to_prev: Tensor | None, margin: int = 0) -> Tensor:
        """Upscale a folded clip with the given flow and margin, as `BasicVSR.propagate` does."""
        self.skipped, self.features = [], []
        trunks = partial(self._trunk, "backward"), partial(self._trunk, "forward")
        return self.network.propagate(lr, to_next, to_prev, trunks, margin)

    def _trunk(self, branch: Branch, x: Tensor) -> Tensor:
        features = run_gated(self.network.trunk(branch), self.estimator.groups(branch), x, self._decide)
        self.features.append(features)
        return features

    def _decide(self, _: int, gate: Gate, blocks: Blocks, x: Tensor, change: Tensor) -> Tensor:
        skip = ~cells_to_run(gate, x.detach(), change.detach(), self.error_budget)[0][:, None]
        if not self.features:  # the first step of the backward branch runs everything
            skip = torch.zeros_like(skip)
        self.skipped.append(skip)
        wide = F.interpolate(skip.to(x.dtype), x.shape[-2:]).bool()
        return torch.where(wide, x + change, blocks(x))


class GatedObjective(nn.Module):
    """The loss of a batch, as `model.training.objective.Objective` returns it, with the alignment in the first term.

    `twin` is the frozen dense network for alignment and distillation.
    """

    def __init__(self, estimator: Estimator, twin: BasicVSR, section: GateSection, bf16: bool) -> None:
        super().__init__()
        self.clip = GatedClip(estimator, section.error_budget)
        self.section, self.bf16 = section, bf16
        twin = twin.eval().requires_grad_(False)
        self._twin = [twin.bfloat16() if bf16 else twin]  # a list hides the twin from `parameters()`

    def forward(self, lr: Tensor, hr: Tensor, _: bool = False) -> tuple[Tensor, Tensor]:
        """Return (loss, photometric term) of LR [B, T, 3, h, w] and HR [B, T, 3, s h, s w] in [0, 1]."""
        margin, network = self.section.margin, self.clip.network
        step = _Step(self.clip, margin)
        folded = fold(lr, network.fold)
        frames, to_next, to_prev = functional_call(step, self._weights(step), (folded,))
        photometric_term = flow_loss(folded, to_next, to_prev)
        frames, share = network.cropped(frames, lr).float(), self.section.distil
        loss = charbonnier(frames, hr[:, margin : hr.shape[1] - margin]) * (1 - share)
        if self.section.align or share:
            same = self.clip.estimator.parts == TRUNKS  # only the trunks differ: the twin has the same flow
            dense, drift = self._compare_with_twin(folded, (to_next, to_prev) if same else None)
            dense = network.cropped(dense, lr).float()
            loss = loss + share * charbonnier(frames, dense) + self.section.align * drift
        self.clip.skipped, self.clip.features = [], []
        return loss, photometric_term

    def _compare_with_twin(self, folded: Tensor, flows: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Return the twin's frames, and the squared distance of the features over the energy of the twin's features."""
        twin, wanted = self._twin[0], list[Tensor]()

        def recorded(trunk: TrunkFunction, x: Tensor) -> Tensor:
            wanted.append(trunk(x))
            return wanted[-1]

        with torch.no_grad():
            trunks = partial(recorded, twin.backward_trunk), partial(recorded, twin.forward_trunk)
            dense = twin.propagate(folded, *(flows or twin.flows(folded)), trunks, self.section.margin)
        pairs = [(a.float(), b.float()) for a, b in zip(self.clip.features, wanted, strict=True) if a.requires_grad]
        return dense, torch.stack([(a - b).square().mean() / b.square().mean() for a, b in pairs]).mean()

    def _weights(self, step: nn.Module) -> dict[str, Tensor]:
        """Return bfloat16 copies of all parameters except the heads, which stay float32 in the engine too."""
        return {
            name: parameter.bfloat16() if self.bf16 and ".head." not in name else parameter
            for name, parameter in step.named_parameters()
        }


class _Step(nn.Module):
    """The frames of a folded clip, and the flow used for them."""

    def __init__(self, clip: GatedClip, margin: int) -> None:
        super().__init__()
        self.clip, self.margin = clip, margin

    def forward(self, lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        to_next, to_prev = clip_flows(self.clip.network, lr)
        return self.clip.propagate(lr, to_next, to_prev, self.margin), to_next, to_prev
