"""Adapting a network to its gates: the weights move, so that what is easy needs few blocks.

`model.training.fit_estimator` fits surrogates and heads to frozen weights. Here the heads stay as they are, and network
and surrogates learn together, over clips in which cells are skipped as the heads say. *Temporal feature alignment*
(SkipVSR, ACM MM 2024) holds the hidden features of both branches to those of the dense twin, the network
as it was, over whole sequences, since the error of skipping grows with them. Heads are fitted anew afterwards.

Gates that learn by themselves (straight-through gradients and a budget) were worse by far: `model/LOG.md`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from model.errors import ModelError
from model.gates.estimator import TRUNKS, Estimator, load_estimator
from model.gates.skipping import cells_to_run
from model.network.basicvsr import BasicVSR, Trunk
from model.training.config import ConfigError, GateSection
from model.training.objective import charbonnier, photometric


def gated_network(network: BasicVSR, section: GateSection, fingerprint: str) -> Estimator:
    """The configured gates, with what is to be adapted to them: what has been before, else a copy of `network`.

    Raises ConfigError.
    """
    try:
        estimator = load_estimator(section.init, fingerprint, network)
    except ModelError as error:
        raise ConfigError(f"gates: {error}") from error
    if estimator is None:
        raise ConfigError(f"gates: {section.init} is not there, or was fitted to other weights than init's")
    moving = TRUNKS if section.adapt == "trunks" else ("",)
    if estimator.adapted is None or moving == ("",):  # what an earlier run moved stays part of it
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
    """A gated network over a whole clip: [B, T, 3, H, W] -> [B, T, 3, 4 H, 4 W]."""

    def __init__(self, estimator: Estimator, confidence: float) -> None:
        super().__init__()
        self.estimator, self.confidence = estimator, confidence
        self.skipped: list[Tensor] = []
        """Of the last clip the gates' decisions [B, 1, cells down, cells across]: True skips."""
        self.features: list[Tensor] = []
        """And the hidden features [B, C, H, W], those of the backward branch first."""

    @property
    def network(self) -> BasicVSR:
        """The network behind the gates."""
        assert self.estimator.adapted is not None
        return self.estimator.adapted

    def forward(self, lr: Tensor) -> Tensor:
        return self.propagate(lr, *self.network.flows(lr))

    def propagate(self, lr: Tensor, to_next: Tensor | None, to_prev: Tensor | None, margin: int = 0) -> Tensor:
        """`forward` with the flow given, and frames at either end that only lead in, as `BasicVSR.propagate` has it."""
        self.skipped, self.features = [], []
        trunks = partial(self._trunk, "backward"), partial(self._trunk, "forward")
        return self.network.propagate(lr, to_next, to_prev, trunks, margin)

    def _trunk(self, branch: str, x: Tensor) -> Tensor:
        trunk: Trunk = getattr(self.network, f"{branch}_trunk")
        x, at = trunk.head(x), 0
        for first, last, gate in self.estimator.gates(branch):
            x = trunk.blocks[at:first](x)
            change = gate.change(x)
            skip = ~cells_to_run(gate, x.detach(), change.detach(), self.confidence)[0][:, None]
            if not self.features:  # here the backward branch begins
                skip = torch.zeros_like(skip)
            self.skipped.append(skip)
            wide = F.interpolate(skip.to(x.dtype), x.shape[-2:]).bool()
            x, at = torch.where(wide, x + change, trunk.blocks[first:last](x)), last
        x = trunk.blocks[at:](x)
        self.features.append(x)
        return x


class GatedObjective(nn.Module):
    """The loss of a batch, as `model.training.objective.Objective` gives it, with the alignment in the first.

    `twin` is what hidden features are held to; it stays as it is.
    """

    def __init__(self, estimator: Estimator, twin: BasicVSR, section: GateSection, bf16: bool) -> None:
        super().__init__()
        self.clip = GatedClip(estimator, section.confidence)
        self.section, self.bf16 = section, bf16
        twin = twin.eval().requires_grad_(False)
        self._twin = [twin.bfloat16() if bf16 else twin]  # in a list: it is no part of what is trained

    def forward(self, lr: Tensor, hr: Tensor, _: bool = False) -> tuple[Tensor, Tensor]:
        """(loss, photometric term) of LR [B, T, 3, h, w] and HR [B, T, 3, 4 h, 4 w] in [0, 1]."""
        margin = self.section.margin
        step = _Step(self.clip, margin)
        frames, to_next, to_prev = functional_call(step, self._weights(step), (lr,))
        older, newer = lr[:, :-1].flatten(0, 1), lr[:, 1:].flatten(0, 1)
        flow_loss = photometric(older, newer, to_next.flatten(0, 1)) + photometric(newer, older, to_prev.flatten(0, 1))
        frames, share = frames.float(), self.section.distil
        loss = charbonnier(frames, hr[:, margin : hr.shape[1] - margin]) * (1 - share)
        if self.section.align or share:
            same = self.clip.estimator.parts == TRUNKS  # then the flow is the twin's
            dense, drift = self._beside_the_twin(lr, (to_next, to_prev) if same else None)
            loss = loss + share * charbonnier(frames, dense.float()) + self.section.align * drift
        self.clip.skipped, self.clip.features = [], []
        return loss, flow_loss / 2

    def _beside_the_twin(self, lr: Tensor, flows: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """The twin's frames, and the squared distance of the hidden features from its, over the energy of its."""
        twin, wanted = self._twin[0], list[Tensor]()

        def noted(trunk: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
            wanted.append(trunk(x))
            return wanted[-1]

        with torch.no_grad():
            trunks = partial(noted, twin.backward_trunk), partial(noted, twin.forward_trunk)
            dense = twin.propagate(lr, *(flows or twin.flows(lr)), trunks, self.section.margin)
        pairs = [(a.float(), b.float()) for a, b in zip(self.clip.features, wanted, strict=True) if a.requires_grad]
        return dense, torch.stack([(a - b).square().mean() / b.square().mean() for a, b in pairs]).mean()

    def _weights(self, step: nn.Module) -> dict[str, Tensor]:
        """bfloat16 copies of all but the heads, which compute in float32 in the engine too."""
        return {
            name: parameter.bfloat16() if self.bf16 and ".head." not in name else parameter
            for name, parameter in step.named_parameters()
        }


class _Step(nn.Module):
    """A clip's frames, and the flow that they were made with."""

    def __init__(self, clip: GatedClip, margin: int) -> None:
        super().__init__()
        self.clip, self.margin = clip, margin

    def forward(self, lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        to_next, to_prev = self.clip.network.flows(lr)
        assert to_next is not None
        assert to_prev is not None
        return self.clip.propagate(lr, to_next, to_prev, self.margin), to_next, to_prev
