"""Run a network with gates over a clip: whole frames, any rule for skipping, and a record of all features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.engine.execute import normalised
from model.gates.estimator import Estimator, Gate
from model.gates.traversal import run_gated
from model.network.basicvsr import BasicVSR, Blocks, Branch
from model.network.folding import fold_frames
from model.network.propagation import propagate
from model.routing import TILE

Frames = npt.NDArray[np.uint8]
Key = tuple[str, int]
"""(branch, number of the gate), or TAIL."""
TAIL: Key = ("tail", 0)


@dataclass(frozen=True)
class Clip:
    """A training clip: `lr` [T, H, W, 3], `hr` [T, s H, s W, 3]."""

    name: str
    lr: Frames
    hr: Frames


@dataclass
class ClipFeatures:
    """Features of one run over a clip, by gate and frame."""

    entry: dict[Key, list[Tensor]] = field(default_factory=dict)
    """[1, in, H, W] input of the group behind the gate."""
    exit: dict[Key, list[Tensor]] = field(default_factory=dict)
    """[1, C, H, W] output of the group; for the upsampler the residual of each pixel's HR pixels [1, 48, H, W]."""
    images: list[Tensor] = field(default_factory=list)
    """[3, s H, s W], levels of 255, not rounded."""
    skipped: dict[Key, list[Tensor]] = field(default_factory=dict)
    """[tiles down, tiles across] bool."""

    def record(self, key: Key, entry: Tensor, exit_: Tensor, skip: Tensor | None) -> None:
        """Append the features of one frame at a gate."""
        self.entry.setdefault(key, []).append(entry)
        self.exit.setdefault(key, []).append(exit_)
        if skip is not None:
            self.skipped.setdefault(key, []).append(skip)


SkipRule = Callable[[Key, Tensor, Tensor], Tensor | None]
"""(gate, entry, change) -> mask [tiles down, tiles across] of the tiles to skip; None skips none."""


class ClipRunner:
    """Runs a network and its gates over one clip under any rule for skipping."""

    def __init__(self, network: BasicVSR, estimator: Estimator, clip: Clip) -> None:
        self.network, self.estimator = network, estimator
        device = next(network.parameters()).device
        lr = (torch.from_numpy(np.ascontiguousarray(f)).to(device) for f in clip.lr)
        self.frames = [normalised(fold_frames(f, network.fold)) for f in lr]
        self.truth = [torch.from_numpy(np.ascontiguousarray(f)).to(device).permute(2, 0, 1).float() for f in clip.hr]
        self.to_next: list[Tensor | None] = [None] * len(self.frames)
        self.to_previous: list[Tensor | None] = [None] * len(self.frames)
        for i in range(len(self.frames) - 1):
            a, b = self.frames[i], self.frames[i + 1]
            flow = network.flow(torch.cat([a, b]), torch.cat([b, a]))
            self.to_next[i], self.to_previous[i + 1] = flow[:1], flow[1:]

    def dense(self) -> ClipFeatures:
        """Run the dense twin."""
        return self.run(lambda *_: None)

    def run(self, rule: SkipRule) -> ClipFeatures:
        """Run both branches over all frames under a rule."""
        run = _RuledRun(self, rule)
        propagate(run, len(self.frames), len(self.frames))
        for records in (run.features.entry, run.features.exit, run.features.skipped):
            for (branch, _), values in records.items():
                if branch == "backward":
                    values.reverse()
        return run.features


class _RuledRun:
    """The steps of a run under one rule."""

    def __init__(self, runner: ClipRunner, rule: SkipRule) -> None:
        self.features = ClipFeatures()
        self._runner, self._rule = runner, rule

    def backward(self, index: int, after: Tensor | None) -> Tensor | None:
        rule = self._rule if index < len(self._runner.frames) - 1 else partial(_nowhere, self._rule)
        trunk = partial(self._trunk, "backward", rule)
        table = None if after is None else after.float()
        flow = self._runner.to_next[index]
        return self._runner.network.backward_step(self._runner.frames[index], table, flow, trunk=trunk)

    def forward(self, index: int, back: Tensor | None, before: Tensor | None) -> Tensor:
        assert back is not None
        trunk = partial(self._trunk, "forward", self._rule)
        table = None if before is None else before.float()
        flow = self._runner.to_previous[index]
        return self._runner.network.forward_step(self._runner.frames[index], back, table, flow, trunk=trunk)

    def output(self, index: int, back: Tensor | None, feat: Tensor | None) -> None:
        assert back is not None
        assert feat is not None
        lr, network, gate = self._runner.frames[index], self._runner.network, self._runner.estimator.tail_gate
        image = network.reconstruct(lr, back, feat)
        if gate is not None:
            x = network.coarse(back, feat)
            change = gate.change(x)
            enlarged = network.enlarged(lr)
            skip = self._rule(TAIL, x, change)
            self.features.record(TAIL, x, sub_pixels(image - enlarged, network.stride), skip)
            if skip is not None:
                wide = pixels(skip, image, TILE * network.stride)
                image = torch.where(wide, enlarged + shuffled(change.float(), network.stride), image)
        self.features.images.append(image[0].mul(255).clamp(0, 255))

    def _trunk(self, branch: Branch, rule: SkipRule, x: Tensor) -> Tensor:
        decide = partial(self._group, branch, rule)
        return run_gated(self._runner.network.trunk(branch), self._runner.estimator.groups(branch), x, decide)

    def _group(
        self, branch: Branch, rule: SkipRule, number: int, _: Gate, blocks: Blocks, x: Tensor, change: Tensor
    ) -> Tensor:
        key = (branch, number)
        skip = rule(key, x, change)
        y: Tensor = blocks(x) if skip is None or not skip.all() else x
        if skip is not None:
            y = torch.where(pixels(skip, x), x + change, y)
        self.features.record(key, x, y, skip)
        return y


def _nowhere(rule: SkipRule, key: Key, x: Tensor, change: Tensor) -> Tensor | None:
    """Skip no tile where the backward branch begins, as `model.gates.skipping` does."""
    skip = rule(key, x, change)
    return None if skip is None else torch.zeros_like(skip)


def sub_pixels(image: Tensor, scale: int) -> Tensor:
    """Reorder [1, 3, s H, s W] to sub-pixels by row, column, colour: [1, 3 s s, H, W]."""
    b, c, h, w = image.shape
    cells = image.view(b, c, h // scale, scale, w // scale, scale)
    return cells.permute(0, 3, 5, 1, 2, 4).reshape(b, -1, h // scale, w // scale)


def shuffled(parts: Tensor, scale: int) -> Tensor:
    """Invert `sub_pixels`: [1, 3 s s, H, W] -> [1, 3, s H, s W]."""
    b, _, h, w = parts.shape
    return parts.view(b, scale, scale, 3, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, 3, h * scale, w * scale)


def pixels(tiles: Tensor, like: Tensor, side: int = TILE) -> Tensor:
    """Expand a value per tile to every pixel of `like` [1, C, H, W]: [tiles down, tiles across] -> [1, 1, H, W].

    `side` is the side of a tile in pixels of `like`.
    """
    wide = tiles.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return wide[None, None, : like.shape[-2], : like.shape[-1]]
