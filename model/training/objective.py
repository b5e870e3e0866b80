"""The training loss: Charbonnier or PSNR on the frames, and a photometric term on the flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from model.network.basicvsr import BasicVSR
from model.network.flow import warp
from model.network.folding import fold, means


def charbonnier(a: Tensor, b: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Return the mean of sqrt((a - b)^2 + epsilon^2) (Lai et al., CVPR 2017)."""
    return ((a - b).square() + epsilon * epsilon).sqrt().mean()


def logarithmic(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean over frames of the logarithm of the squared error [B, T, 3, H, W], as PSNR does.

    The factor 0.01 gives gradients of about Charbonnier's size. Frames above 50 dB count less.
    """
    return 0.01 * ((a - b).square().mean(dim=(2, 3, 4)) + 1e-5).log().mean()


LOSSES: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {"charbonnier": charbonnier, "psnr": logarithmic}


def photometric(ref: Tensor, supp: Tensor, flow: Tensor) -> Tensor:
    """Return the error of `supp` warped onto `ref` [B, 3, H, W] by `flow` [B, 2, H, W], at full and quarter resolution.

    The coarse term attracts large motion, beyond the range in which fine structure correlates.
    """
    total = charbonnier(warp(supp, flow, "border"), ref)
    if min(ref.shape[-2:]) >= 16:
        ref, supp, flow = F.avg_pool2d(ref, 4), F.avg_pool2d(supp, 4), F.avg_pool2d(flow, 4) / 4
        total = total + charbonnier(warp(supp, flow, "border"), ref)
    return total


def flow_loss(lr: Tensor, to_next: Tensor, to_prev: Tensor) -> Tensor:
    """Return the mean photometric term of both directions of flow [B, T - 1, 2, H, W] in a folded clip."""
    lr = means(lr)
    older, newer = lr[:, :-1].flatten(0, 1), lr[:, 1:].flatten(0, 1)
    total = photometric(older, newer, to_next.flatten(0, 1)) + photometric(newer, older, to_prev.flatten(0, 1))
    return total / 2


def clip_flows(network: BasicVSR, lr: Tensor) -> tuple[Tensor, Tensor]:
    """Return the flow of a folded clip of at least two frames, as `BasicVSR.flows` does."""
    to_next, to_prev = network.flows(lr)
    assert to_next is not None
    assert to_prev is not None
    return to_next, to_prev


class _Clip(nn.Module):
    """The frames of a folded clip, and the flow used for them."""

    def __init__(self, network: BasicVSR) -> None:
        super().__init__()
        self.network = network

    def forward(self, lr: Tensor, flow_only: bool) -> tuple[Tensor | None, Tensor, Tensor]:
        to_next, to_prev = clip_flows(self.network, lr)
        return None if flow_only else self.network.propagate(lr, to_next, to_prev), to_next, to_prev


class Objective(nn.Module):
    """The loss of a batch. Parameters stay float32; with `bf16` the network computes with bfloat16 copies.

    Copies, unlike autocast, also make every tensor between two convolutions bfloat16, as in the engine.
    """

    def __init__(self, network: BasicVSR, bf16: bool, loss: str = "charbonnier") -> None:
        super().__init__()
        self.clip = _Clip(network)
        self.bf16 = bf16
        self.loss = LOSSES[loss]

    def forward(self, lr: Tensor, hr: Tensor, flow_only: bool = False) -> tuple[Tensor, Tensor]:
        """Return (frame loss, photometric term) of LR [B, T, 3, h, w] and HR [B, T, 3, s h, s w] in [0, 1].

        With `flow_only` the frame loss is zero.
        """
        network = self.clip.network
        folded = fold(lr, network.fold)
        frames, to_next, to_prev = functional_call(self.clip, self._weights(), (folded, flow_only))
        flow_term = flow_loss(folded, to_next, to_prev)
        if frames is None:
            return torch.zeros_like(flow_term), flow_term
        loss = self.loss(network.cropped(frames, lr).float(), hr)
        return loss, flow_term

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: parameter.bfloat16() if self.bf16 else parameter for name, parameter in self.clip.named_parameters()
        }
