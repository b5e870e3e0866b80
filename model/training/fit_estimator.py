"""Fitting a confidence estimator (`model.gates.estimator`) to a network, whose weights stay as they are.

1. The *dense twin* runs over every clip; the features at each group's entry and exit are what everything is held to.
2. Surrogates by least squares: entry -> exit minus entry, ridge, tiles weighted by how little the group does there,
   since it is there that a surrogate will stand in.
3. Heads: each group in turn is left out of whole clips, all frames, so that the error also travels through time. The
   added error of each HR tile, and the error that the dense twin makes there anyway (which takes ground truth), are
   what the head learns to tell, as logarithms, from the dense twin's features.
4. *Temporal feature alignment*: with all gates at work over whole clips, features drift off those of the twin. The
   surrogates are fitted once more, from the skipping network's own features to the twin's exit at the same frame, on
   the tiles that are skipped. This is the alignment loss of SkipVSR in closed form, for what can be adapted here.

Deterministic: no sampling but a fixed grid of pixels, and a fixed seed for the heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.engine.execute import normalised
from model.gates.estimator import Estimator, Gate, Layout
from model.network.basicvsr import SCALE, BasicVSR, NetworkConfig, Trunk
from model.routing import TILE

Frames = npt.NDArray[np.uint8]
BRANCHES = ("backward", "forward")
TAIL = ("tail", 0)
Key = tuple[str, int]
"""(branch, number of the gate), or TAIL."""
PIXELS = 3
"""One pixel in so many, in the order of rows, goes into the least squares."""
RIDGE = 1e-4
"""Of the mean of the normal equations' diagonal."""
QUANTISATION = 0.25
"""Added to the twin's mean squared error of a tile, levels of 255: below that, integers can tell no difference."""


@dataclass(frozen=True)
class Clip:
    """A training clip: `lr` [T, H, W, 3], `hr` [T, 4 H, 4 W, 3]."""

    name: str
    lr: Frames
    hr: Frames


@dataclass
class Pass:
    """Features of one run over a clip, by gate: entry [1, in, H, W] and exit or change of each frame."""

    entry: dict[Key, list[Tensor]] = field(default_factory=dict)
    exit: dict[Key, list[Tensor]] = field(default_factory=dict)
    images: list[Tensor] = field(default_factory=list)
    """[3, 4 H, 4 W], levels of 255, not rounded."""
    skipped: dict[Key, list[Tensor]] = field(default_factory=dict)
    """[tiles down, tiles across] bool."""


Decide = Callable[[Key, Tensor, Tensor], Tensor | None]
"""(gate, entry, change) -> tiles to be skipped, None for none."""


class Lab:
    """A network and its gates over a clip, whole frames, with any rule for skipping."""

    def __init__(self, network: BasicVSR, estimator: Estimator, clip: Clip) -> None:
        self.network, self.estimator = network, estimator
        device = next(network.parameters()).device
        self.frames = [normalised(torch.from_numpy(np.ascontiguousarray(f)).to(device)) for f in clip.lr]
        self.truth = [torch.from_numpy(np.ascontiguousarray(f)).to(device).permute(2, 0, 1).float() for f in clip.hr]
        self.to_next: list[Tensor | None] = [None] * len(self.frames)
        self.to_previous: list[Tensor | None] = [None] * len(self.frames)
        for i in range(len(self.frames) - 1):
            a, b = self.frames[i], self.frames[i + 1]
            flow = network.flow(torch.cat([a, b]), torch.cat([b, a]))
            self.to_next[i], self.to_previous[i + 1] = flow[:1], flow[1:]

    def dense(self) -> Pass:
        """The dense twin."""
        return self.run(lambda *_: None)

    def run(self, decide: Decide) -> Pass:
        """All frames, both branches, under a rule."""
        net, done, count = self.network, Pass(), len(self.frames)
        backs: list[Tensor] = []
        feat: Tensor | None = None
        for i in reversed(range(count)):
            table = None if feat is None else feat.float()
            rule = decide if i < count - 1 else partial(_nowhere, decide)
            feat = net.backward_step(
                self.frames[i], table, self.to_next[i], trunk=partial(self._trunk, "backward", decide=rule, done=done)
            )
            backs.append(feat)
        backs.reverse()
        feat = None
        for i in range(count):
            table = None if feat is None else feat.float()
            feat = net.forward_step(
                self.frames[i],
                backs[i],
                table,
                self.to_previous[i],
                trunk=lambda x: self._trunk("forward", x, decide, done),
            )
            done.images.append(self._image(self.frames[i], backs[i], feat, decide, done))
        for records in (done.entry, done.exit, done.skipped):
            for (branch, _), values in records.items():
                if branch == "backward":
                    values.reverse()
        return done

    def _trunk(self, branch: str, x: Tensor, decide: Decide, done: Pass) -> Tensor:
        trunk: Trunk = getattr(self.network, f"{branch}_trunk")
        x, at = trunk.head(x), 0
        for number, (first, last, gate) in enumerate(self.estimator.gates(branch)):
            x = trunk.blocks[at:first](x)
            key = (branch, number)
            change = gate.change(x)
            skip = decide(key, x, change)
            y = trunk.blocks[first:last](x) if skip is None or not skip.all() else x
            if skip is not None:
                y = torch.where(_pixels(skip, x), x + change, y)
                done.skipped.setdefault(key, []).append(skip)
            done.entry.setdefault(key, []).append(x)
            done.exit.setdefault(key, []).append(y)
            x, at = y, last
        return trunk.blocks[at:](x)  # type: ignore[no-any-return]

    def _image(self, lr: Tensor, back: Tensor, feat: Tensor, decide: Decide, done: Pass) -> Tensor:
        gate = self.estimator.tail_gate
        image = self.network.reconstruct(lr, back, feat)
        if gate is not None:
            x = self.network.coarse(back, feat)
            change = gate.change(x)
            enlarged = F.interpolate(lr.float(), scale_factor=SCALE, mode="bilinear", align_corners=False)
            skip = decide(TAIL, x, change)
            done.entry.setdefault(TAIL, []).append(x)
            done.exit.setdefault(TAIL, []).append(sub_pixels(image - enlarged))
            if skip is not None:
                done.skipped.setdefault(TAIL, []).append(skip)
                image = torch.where(_pixels(skip, image), enlarged + shuffled(change.float()), image)
        return image[0].mul(255).clamp(0, 255)


def _nowhere(decide: Decide, key: Key, x: Tensor, change: Tensor) -> Tensor | None:
    """The rule where the backward branch begins: as `model.gates.skipping`, which runs all there."""
    skip = decide(key, x, change)
    return None if skip is None else torch.zeros_like(skip)


def sub_pixels(image: Tensor) -> Tensor:
    """[1, 3, 4 H, 4 W] -> [1, 48, H, W], by row, column, colour."""
    b, c, h, w = image.shape
    cells = image.view(b, c, h // SCALE, SCALE, w // SCALE, SCALE)
    return cells.permute(0, 3, 5, 1, 2, 4).reshape(b, -1, h // SCALE, w // SCALE)


def shuffled(parts: Tensor) -> Tensor:
    """The inverse of `sub_pixels`."""
    b, _, h, w = parts.shape
    return parts.view(b, SCALE, SCALE, 3, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, 3, h * SCALE, w * SCALE)


def _pixels(tiles: Tensor, like: Tensor) -> Tensor:
    """[tiles down, tiles across] bool -> [1, 1, H, W] of the size of `like` [1, C, H, W], LR or HR."""
    side = TILE if -(-like.shape[-2] // TILE) == tiles.shape[0] else TILE * SCALE
    wide = tiles.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return wide[None, None, : like.shape[-2], : like.shape[-1]]


class LeastSquares:
    """Streaming normal equations of one convolution with bias, in float64."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        self.inputs, self.outputs, self.kernel = inputs, outputs, kernel
        columns = kernel * kernel * inputs + 1
        self.gram = torch.zeros(columns, columns, dtype=torch.float64)
        self.cross = torch.zeros(columns, outputs, dtype=torch.float64)

    def add(self, x: Tensor, target: Tensor, weight: Tensor) -> None:
        """`x` [1, in, H, W], `target` [1, out, H, W], `weight` [1, 1, H, W]; a fixed grid of pixels of it."""
        step = PIXELS if self.inputs <= 64 else 3 * PIXELS
        rows = F.unfold(x.float(), self.kernel, padding=self.kernel // 2)[0, :, ::step]
        root = weight.flatten()[::step].sqrt()
        rows = torch.cat([rows, rows.new_ones(1, rows.shape[1])]) * root
        values = target.float()[0].flatten(1)[:, ::step] * root
        self.gram += (rows @ rows.T).double().cpu()
        self.cross += (rows @ values.T).double().cpu()

    def solve(self, conv: nn.Conv2d) -> None:
        """Write the solution into a convolution."""
        ridge = RIDGE * self.gram.diagonal().mean() * torch.eye(len(self.gram), dtype=torch.float64)
        solution = torch.linalg.solve(self.gram + ridge, self.cross)
        with torch.no_grad():
            conv.weight.copy_(solution[:-1].T.reshape(conv.weight.shape))
            assert conv.bias is not None
            conv.bias.copy_(solution[-1])


def _least_squares(gate: Gate) -> LeastSquares:
    conv = gate.surrogate
    return LeastSquares(conv.in_channels, conv.out_channels, conv.kernel_size[0])


def all_gates(estimator: Estimator) -> Iterator[tuple[Key, Gate]]:
    """Every gate with its key, in the order in which a frame meets them."""
    for branch in BRANCHES:
        for number, (_, _, gate) in enumerate(estimator.gates(branch)):
            yield (branch, number), gate
    if estimator.tail_gate is not None:
        yield TAIL, estimator.tail_gate


def fit_surrogates(network: BasicVSR, estimator: Estimator, clips: Sequence[Clip]) -> None:
    """Step 2: from the dense twin's features alone."""
    sums = {key: _least_squares(gate) for key, gate in all_gates(estimator)}
    for clip in clips:
        twin = Lab(network, estimator, clip).dense()
        for key, sum_ in sums.items():
            for x, target in list(zip(twin.entry[key], _targets(key, twin, twin), strict=True))[::2]:
                sum_.add(x, target, _weight(target))
    for key, gate in all_gates(estimator):
        sums[key].solve(gate.surrogate)


def align(network: BasicVSR, estimator: Estimator, clips: Sequence[Clip], confidence: float) -> None:
    """Step 4: surrogates again, from the skipping network's features to the twin's."""
    sums = {key: _least_squares(gate) for key, gate in all_gates(estimator)}
    for clip in clips:
        lab = Lab(network, estimator, clip)
        twin, own = lab.dense(), lab.run(by_confidence(estimator, confidence))
        for key, sum_ in sums.items():
            for i in range(1, len(clip.lr), 2):
                x, skip = own.entry[key][i], own.skipped[key][i]
                target = _targets(key, twin, own)[i]
                weight = _weight(target) * (_pixels(skip, x).float() + 0.01)  # a little of all else holds it in place
                sum_.add(x, target, weight)
    for key, gate in all_gates(estimator):
        sums[key].solve(gate.surrogate)


def by_confidence(estimator: Estimator, confidence: float) -> Decide:
    """The rule that execution follows (`model.gates.skipping`), tile by tile, without rectangles."""
    gates = dict(all_gates(estimator))
    return lambda key, x, change: gates[key].expected(x, change)[0] <= math.log(confidence)


def _targets(key: Key, twin: Pass, own: Pass) -> list[Tensor]:
    """What each surrogate should make of `own`'s features, so that the exit is the twin's."""
    if key == TAIL:
        return twin.exit[key]
    return [b.float() - a.float() for a, b in zip(own.entry[key], twin.exit[key], strict=True)]


def _weight(target: Tensor) -> Tensor:
    """[1, 1, H, W]: the inverse of what is to be done in a tile, so that busy tiles don't outvote quiet ones."""
    energy = F.avg_pool2d(target.float().square().mean(1, keepdim=True), TILE, ceil_mode=True, count_include_pad=False)
    weight = 1.0 / (energy + 0.1 * energy.mean() + 1e-12)
    return _pixels_of(weight, target)


def _pixels_of(tiles: Tensor, like: Tensor) -> Tensor:
    wide = tiles.repeat_interleave(TILE, 2).repeat_interleave(TILE, 3)
    return wide[..., : like.shape[-2], : like.shape[-1]]


def tile_errors(images: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """Mean squared error of Y in each HR tile: [T, tiles down, tiles across], levels of 255 squared."""
    y = torch.tensor([65.481, 128.553, 24.966]).view(3, 1, 1) / 255.0
    errors = torch.stack([((a - b) * y.to(a.device)).sum(0).square() for a, b in zip(images, truth, strict=True)])
    return F.avg_pool2d(errors[:, None], TILE * SCALE, ceil_mode=True, count_include_pad=False)[:, 0]


Table = dict[Key, tuple[Tensor, Tensor, Tensor]]
"""By gate: the head's input [N, F], added error [N] and the twin's own error [N] of each tile."""


def measure(network: BasicVSR, estimator: Estimator, clips: Sequence[Clip]) -> Table:
    """Step 3: what leaving out each group everywhere does to each tile. The table lies on the CPU, wherever it ran."""
    rows: dict[Key, list[tuple[Tensor, Tensor, Tensor]]] = {key: [] for key, _ in all_gates(estimator)}
    for clip in clips:
        lab = Lab(network, estimator, clip)
        twin = lab.dense()
        own = tile_errors(twin.images, lab.truth)
        for key, gate in all_gates(estimator):
            without = lab.run(lambda k, x, _, key=key: _everywhere(x) if k == key else None)  # type: ignore[misc]
            added = tile_errors(without.images, twin.images)
            looks = torch.cat([gate.pooled(x, gate.change(x)) for x in twin.entry[key]])
            rows[key].append((looks.flatten(0, 2).cpu(), added.flatten().cpu(), own.flatten().cpu()))
    return {
        key: (torch.cat([r[0] for r in r3]), torch.cat([r[1] for r in r3]), torch.cat([r[2] for r in r3]))
        for key, r3 in rows.items()
    }


def _everywhere(x: Tensor) -> Tensor:
    h, w = (-(-side // TILE) for side in x.shape[-2:])
    return torch.ones(h, w, dtype=torch.bool, device=x.device)


def fit_heads(estimator: Estimator, table: Table, steps: int = 400) -> dict[Key, float]:
    """Train the heads on a table (`measure`), on the CPU, and write them into the gates, wherever those lie.

    Returns the share of the target's variance that each explains.
    """
    explained = {}
    for key, gate in all_gates(estimator):
        looks, added, own = table[key]
        target = torch.stack([(added + 1e-4).log(), (own + QUANTISATION).log()], dim=-1)
        mean, std = looks.mean(0), looks.std(0) + 1e-3
        x = (looks - mean) / std
        first, last = gate.head[0], gate.head[2]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode(False), torch.enable_grad():
            x, goal = x.clone(), target.clone()
            w1 = (torch.randn(first.weight.shape, generator=generator) * 0.05).requires_grad_()
            b1 = torch.zeros(first.bias.shape).requires_grad_()
            w2 = (torch.randn(last.weight.shape, generator=generator) * 0.1).requires_grad_()
            b2 = goal.mean(0).clone().requires_grad_()
            optimiser = torch.optim.Adam([w1, b1, w2, b2], lr=1e-2, weight_decay=1e-5)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            for _ in range(steps):
                pick = torch.randint(len(x), (2048,), generator=generator)
                guess = F.linear(F.relu(F.linear(x[pick], w1, b1)), w2, b2)
                loss = F.smooth_l1_loss(guess, goal[pick])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        with torch.no_grad():
            first.weight.copy_(w1 / std)
            first.bias.copy_(b1 - (w1 / std) @ mean)
            last.weight.copy_(w2)
            last.bias.copy_(b2)
            residual = F.linear(F.relu(F.linear(x, w1, b1)), w2, b2) - target
        explained[key] = 1.0 - float(residual[:, 0].var() / target[:, 0].var())
    return explained


def fit(
    network: BasicVSR,
    estimator: Estimator,
    clips: Sequence[Clip],
    confidence: float,
    rounds: int,
    say: Callable[[str], None],
) -> dict[Key, float]:
    """All steps: surrogates, heads, and `rounds` of alignment at that confidence, each with heads after it.

    Heads need the most runs of the network, and less data: the final ones learn from every third clip, those that
    only say where to align from every sixth; alignment takes every other clip. Returns what the heads explain, as
    `fit_heads` does.
    """
    fit_surrogates(network, estimator, clips)
    say("surrogates fitted to the dense twin")
    for number in range(rounds):
        explained = fit_heads(estimator, measure(network, estimator, clips[::6]))
        say(f"heads explain {min(explained.values()):.0%} of the variance, the worst of them")
        align(network, estimator, clips[::2], confidence)
        say(f"alignment {number + 1} of {rounds} done")
    return fit_heads(estimator, measure(network, estimator, clips[::3]))


def layout(config: NetworkConfig) -> Layout:
    """Which groups get gates, and how large their surrogates are (`model/LOG.md` says why).

    Of the paper's network most of the blocks after the first fifth, but the last two; of a light one, whose calls cost
    as much as their pixels, all blocks of a branch at once.
    """
    if config.tail == "light":
        return Layout(((0, config.blocks),), ((0, config.blocks),), tail=False, kernel=1)
    spans: tuple[tuple[int, int], ...] = ()
    if config.blocks >= 20:
        a, c = config.blocks // 5, config.blocks - 2
        spans = ((a, (a + c) // 2), ((a + c) // 2, c))
    elif config.blocks > 2:
        spans = ((1, config.blocks - 1),)
    return Layout(spans, spans, tail=True)
