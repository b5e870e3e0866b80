"""What is minimised: Charbonnier or PSNR on the frames, and a photometric term on the flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from model.flow import warp
from model.network import BasicVSR


def charbonnier(a: Tensor, b: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt((a - b)^2 + epsilon^2) (Lai et al., CVPR 2017)."""
    return ((a - b).square() + epsilon * epsilon).sqrt().mean()


def logarithmic(a: Tensor, b: Tensor) -> Tensor:
    """Mean logarithm of the squared error of each frame [B, T, 3, H, W]: what PSNR counts, and for each frame alike.

    A hundredth of the logarithm has gradients of about Charbonnier's size. Above 50 dB a frame counts less.
    """
    return 0.01 * ((a - b).square().mean(dim=(2, 3, 4)) + 1e-5).log().mean()


LOSSES: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {"charbonnier": charbonnier, "psnr": logarithmic}


def photometric(ref: Tensor, supp: Tensor, flow: Tensor) -> Tensor:
    """How badly `flow` [B, 2, H, W] warps `supp` onto `ref` [B, 3, H, W], at full and at quarter resolution.

    The coarse term pulls where the motion is larger than what the fine structure correlates over.
    """
    total = charbonnier(warp(supp, flow, "border"), ref)
    if min(ref.shape[-2:]) >= 16:
        ref, supp, flow = F.avg_pool2d(ref, 4), F.avg_pool2d(supp, 4), F.avg_pool2d(flow, 4) / 4
        total = total + charbonnier(warp(supp, flow, "border"), ref)
    return total


class _Clip(nn.Module):
    """The network over a clip, with the flow it used."""

    def __init__(self, network: BasicVSR) -> None:
        super().__init__()
        self.network = network

    def forward(self, lr: Tensor, flow_only: bool) -> tuple[Tensor | None, Tensor, Tensor]:
        to_next, to_prev = self.network.flows(lr)
        assert to_next is not None
        assert to_prev is not None
        return None if flow_only else self.network.propagate(lr, to_next, to_prev), to_next, to_prev


class Objective(nn.Module):
    """The loss of a batch. Parameters stay float32; with `bf16` the network computes on bfloat16 copies of them.

    Copies rather than autocast: whatever flows between two convolutions is bfloat16 too, as it is in the engine.
    """

    def __init__(self, network: BasicVSR, bf16: bool, loss: str = "charbonnier") -> None:
        super().__init__()
        self.clip = _Clip(network)
        self.bf16 = bf16
        self.loss = LOSSES[loss]

    def forward(self, lr: Tensor, hr: Tensor, flow_only: bool = False) -> tuple[Tensor, Tensor]:
        """(loss of the frames, photometric term) of LR [B, T, 3, h, w] and HR [B, T, 3, 4 h, 4 w] in [0, 1].

        The first is zero with `flow_only`.
        """
        frames, to_next, to_prev = functional_call(self.clip, self._weights(), (lr, flow_only))
        older, newer = lr[:, :-1].flatten(0, 1), lr[:, 1:].flatten(0, 1)
        flow_loss = photometric(older, newer, to_next.flatten(0, 1)) + photometric(newer, older, to_prev.flatten(0, 1))
        loss = self.loss(frames.float(), hr) if frames is not None else torch.zeros_like(flow_loss)
        return loss, flow_loss / 2

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: parameter.bfloat16() if self.bf16 else parameter for name, parameter in self.clip.named_parameters()
        }
