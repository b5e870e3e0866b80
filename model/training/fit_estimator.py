"""Fit a confidence estimator (`model.gates.estimator`) to a network with frozen weights.

1. The *dense twin* runs over every clip. Its features at the entry and exit of each group are the reference.
2. Surrogates by least squares with ridge: entry -> exit minus entry. Tiles that the group changes little weigh more: on
   these tiles, the surrogate replaces the group.
3. Heads: each group in turn is skipped in all frames of a clip: its error also propagates through time. The
   head learns two logarithms for each HR tile from the dense twin's features: the added error, and the error of the
   dense twin itself, which needs ground truth.
4. *Temporal feature alignment*: with all gates working over whole clips, features drift from those of the twin. The
   surrogates are fitted again on the skipped tiles, from the skipping network's features to the twin's exit at the same
   frame. This is the alignment loss of SkipVSR in closed form, for the parts that can adapt here.

Deterministic: a fixed grid of pixels instead of sampling, and a fixed seed for the heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.gates.estimator import Estimator, Gate, Layout
from model.network.basicvsr import BasicVSR, Branch, NetworkConfig
from model.routing import TILE
from model.training.clip_runner import TAIL, Clip, ClipFeatures, ClipRunner, Key, SkipRule, pixels

__all__ = ["Clip", "align", "fit", "fit_heads", "fit_surrogates", "layout", "measure"]

BRANCHES: tuple[Branch, Branch] = ("backward", "forward")
PIXELS = 3
"""Every third pixel, in the order of rows, enters the least squares."""
RIDGE = 1e-4
"""Ridge, as a fraction of the mean diagonal of the normal equations."""
QUANTISATION = 0.25
"""Added to the twin's mean squared error of a tile, levels of 255 squared; integers cannot show smaller errors."""


class LeastSquares:
    """Normal equations of one convolution with bias, accumulated in float64."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        self.inputs, self.outputs, self.kernel = inputs, outputs, kernel
        columns = kernel * kernel * inputs + 1
        self.gram = torch.zeros(columns, columns, dtype=torch.float64)
        self.cross = torch.zeros(columns, outputs, dtype=torch.float64)

    def add(self, x: Tensor, target: Tensor, weight: Tensor) -> None:
        """Add a fixed grid of pixels of `x` [1, in, H, W], `target` [1, out, H, W] and `weight` [1, 1, H, W]."""
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
    """Yield every gate with its key, in the order of computation."""
    for branch in BRANCHES:
        for number, group in enumerate(estimator.groups(branch)):
            yield (branch, number), group.gate
    if estimator.tail_gate is not None:
        yield TAIL, estimator.tail_gate


def fit_surrogates(network: BasicVSR, estimator: Estimator, clips: Sequence[Clip]) -> None:
    """Fit the surrogates to the dense twin's features (step 2)."""
    sums = {key: _least_squares(gate) for key, gate in all_gates(estimator)}
    for clip in clips:
        twin = ClipRunner(network, estimator, clip).dense()
        for key, sum_ in sums.items():
            for x, target in list(zip(twin.entry[key], _targets(key, twin, twin), strict=True))[::2]:
                sum_.add(x, target, _weight(target))
    for key, gate in all_gates(estimator):
        sums[key].solve(gate.surrogate)


def align(network: BasicVSR, estimator: Estimator, clips: Sequence[Clip], error_budget: float) -> None:
    """Fit the surrogates again, from the skipping network's features to those of the twin (step 4)."""
    sums = {key: _least_squares(gate) for key, gate in all_gates(estimator)}
    for clip in clips:
        runner = ClipRunner(network, estimator, clip)
        twin, own = runner.dense(), runner.run(by_error_budget(estimator, error_budget))
        for key, sum_ in sums.items():
            for i in range(1, len(clip.lr), 2):
                x, skip = own.entry[key][i], own.skipped[key][i]
                target = _targets(key, twin, own)[i]
                # A small weight on all other tiles keeps the surrogate stable there.
                weight = _weight(target) * (pixels(skip, x).float() + 0.01)
                sum_.add(x, target, weight)
    for key, gate in all_gates(estimator):
        sums[key].solve(gate.surrogate)


def by_error_budget(estimator: Estimator, error_budget: float) -> SkipRule:
    """Return the rule of the engine (`model.gates.skipping`) tile by tile, without cells and rectangles."""
    gates = dict(all_gates(estimator))
    return lambda key, x, change: gates[key].expected(x, change)[0] <= math.log(error_budget)


def _targets(key: Key, twin: ClipFeatures, own: ClipFeatures) -> list[Tensor]:
    """Return the surrogate's target for each frame: from `own`'s features to the twin's exit."""
    if key == TAIL:
        return twin.exit[key]
    return [b.float() - a.float() for a, b in zip(own.entry[key], twin.exit[key], strict=True)]


def _weight(target: Tensor) -> Tensor:
    """Return the inverse energy of the target per tile [1, 1, H, W]: busy tiles must not outweigh quiet tiles."""
    energy = F.avg_pool2d(target.float().square().mean(1, keepdim=True), TILE, ceil_mode=True, count_include_pad=False)
    weight = 1.0 / (energy + 0.1 * energy.mean() + 1e-12)
    return pixels(weight[0, 0], target)


def tile_errors(images: Sequence[Tensor], truth: Sequence[Tensor], side: int) -> Tensor:
    """Return the mean squared error of Y in each HR tile: [T, tiles down, tiles across], levels of 255 squared.

    `side` is the side of a tile in HR pixels.
    """
    y = torch.tensor([65.481, 128.553, 24.966]).view(3, 1, 1) / 255.0
    errors = torch.stack([((a - b) * y.to(a.device)).sum(0).square() for a, b in zip(images, truth, strict=True)])
    return F.avg_pool2d(errors[:, None], side, ceil_mode=True, count_include_pad=False)[:, 0]


HeadData = dict[Key, tuple[Tensor, Tensor, Tensor]]
"""By gate, for N tiles: the head's input [N, F], the added error [N] and the twin's own error [N]."""


def measure(network: BasicVSR, estimator: Estimator, clips: Sequence[Clip]) -> HeadData:
    """Measure how skipping each group everywhere changes each tile (step 3). The result is on the CPU."""
    side = TILE * network.stride
    rows: dict[Key, list[tuple[Tensor, Tensor, Tensor]]] = {key: [] for key, _ in all_gates(estimator)}
    for clip in clips:
        runner = ClipRunner(network, estimator, clip)
        twin = runner.dense()
        own = tile_errors(twin.images, runner.truth, side)
        for key, gate in all_gates(estimator):
            without = runner.run(lambda k, x, _, key=key: _everywhere(x) if k == key else None)  # type: ignore[misc]
            added = tile_errors(without.images, twin.images, side)
            looks = torch.cat([gate.pooled(x, gate.change(x)) for x in twin.entry[key]])
            rows[key].append((looks.flatten(0, 2).cpu(), added.flatten().cpu(), own.flatten().cpu()))
    return {
        key: (torch.cat([r[0] for r in r3]), torch.cat([r[1] for r in r3]), torch.cat([r[2] for r in r3]))
        for key, r3 in rows.items()
    }


def _everywhere(x: Tensor) -> Tensor:
    h, w = (-(-side // TILE) for side in x.shape[-2:])
    return torch.ones(h, w, dtype=torch.bool, device=x.device)


def fit_heads(estimator: Estimator, data: HeadData, steps: int = 400) -> dict[Key, float]:
    """Train the heads on the result of `measure`, on the CPU, and write their weights into the gates on any device.

    Returns for each head the explained share of the variance of the added error.
    """
    explained = {}
    for key, gate in all_gates(estimator):
        looks, added, own = data[key]
        target = torch.stack([(added + 1e-4).log(), (own + QUANTISATION).log()], dim=-1)
        mean, std = looks.mean(0), looks.std(0) + 1e-3
        x = (looks - mean) / std
        first, last = gate.head[0], gate.head[2]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        w1, b1, w2, b2 = _trained_head(x, target, first, last, steps)
        with torch.no_grad():
            first.weight.copy_(w1 / std)
            first.bias.copy_(b1 - (w1 / std) @ mean)
            last.weight.copy_(w2)
            last.bias.copy_(b2)
            residual = F.linear(F.relu(F.linear(x, w1, b1)), w2, b2) - target
        explained[key] = 1.0 - float(residual[:, 0].var() / target[:, 0].var())
    return explained


def _trained_head(
    x: Tensor, target: Tensor, first: nn.Linear, last: nn.Linear, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train a head of the shape of `first` and `last` from inputs [N, F] to targets [N, 2]; return its parameters."""
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
    return w1, b1, w2, b2


def fit(
    network: BasicVSR,
    estimator: Estimator,
    clips: Sequence[Clip],
    error_budget: float,
    rounds: int,
    say: Callable[[str], None],
) -> dict[Key, float]:
    """Run all steps: surrogates, heads, then `rounds` of alignment at an error budget, each followed by heads.

    Heads need most runs of the network and less data: the final heads learn from every third clip, the heads for
    alignment from every sixth. Alignment uses every second clip. `say` receives the progress, one line at a time.
    Returns the explained variances, as `fit_heads` does.
    """
    fit_surrogates(network, estimator, clips)
    say("surrogates fitted to the dense twin")
    for number in range(rounds):
        explained = fit_heads(estimator, measure(network, estimator, clips[::6]))
        say(f"the worst head explains {min(explained.values()):.0%} of the variance")
        align(network, estimator, clips[::2], error_budget)
        say(f"alignment {number + 1} of {rounds} done")
    return fit_heads(estimator, measure(network, estimator, clips[::3]))


def layout(config: NetworkConfig) -> Layout:
    """Return the groups that get gates, and the size of the surrogates (reasons: lab notebook).

    In the paper's network the gates cover the blocks after the first fifth, except the last two. In a light network, a
    call costs as much as its pixels. A single gate therefore covers all blocks of a branch.
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
