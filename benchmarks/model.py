"""Speed and quality of the network per frame: each model and routing over the same clips, dense beside routed.

A clip goes through all contenders chunk by chunk in turn (`chunk` and `lookahead` as a job has them), each with its own
carried state, in an order that changes; and all of that `rounds` times. A contender's time for the clip is the sum over
the chunks of the median over the rounds, so that a burst of other load hits all alike, or is left out by the median.
Timed is `forward` alone, as its reports tell it: uint8 LR frames in, uint8 HR frames out; decoding, reduction, PSNR and
the engine's own calibration of the dense time are outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmarks import reference
from commands.eval import degraded
from media.dataset import clip as read_clip
from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Frames, Upscaler, groups, load_model
from model.quality import PEAK, luma
from model.routing import Preset
from model.training.degrade import SCALE
from model.zoo.models import load_network

DENSE = "off"
REFERENCE = "reference-fp32"
"""Stands in the column `routing` for the wheel's own network."""
HIGHEST_DB = 100.0
"""A frame equal to its ground truth counts as this much in a mean."""


@dataclass(frozen=True)
class Options:
    """What is measured, and how."""

    models: Sequence[str]
    routings: Sequence[str] = (DENSE, "balanced", "fast")
    frames: int | None = None
    """First frames of each clip; None: all."""
    native: bool = False
    """Each clip as it is as LR, without ground truth; else the clip is the ground truth, and LR its quarter."""
    degrade: str = "bi"
    """How the quarter is made: as `skipvsr eval` takes it."""
    rounds: int = 3
    chunk: int = 24
    lookahead: int = 4
    with_reference: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int = 2
    changes: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the presets to change, by name (`model.routing.Preset`); not those of `off`."""


@dataclass(frozen=True)
class Row:
    """One clip through one model with one routing. Times are wall-clock, medians unless they say otherwise."""

    clip: str
    lr_size: str
    model: str
    routing: str
    frames: int
    ms_per_frame: float
    ms_per_frame_min: float
    """From the fastest round of each chunk: what the machine does when nothing else runs."""
    speedup: float
    """Dense time of the same model over this one's; ratio of medians."""
    speedup_min: float
    """The same of the fastest rounds."""
    speedup_over_reference: float | None
    skip_ratio: float
    """Fraction of all (tile, block) units that were not run."""
    psnr_y: float | None
    """Against the ground truth, mean over frames of the PSNR of Y, dB; null with --native."""
    psnr_y_dense: float | None
    """The dense output's, likewise."""
    psnr_y_to_dense: float | None
    """Of this output against the dense one (from the mean squared error of all frames); null: bit for bit equal."""
    worst_frame: int | None
    """The frame that lost most against dense; null where none differs."""
    worst_frame_db: float | None
    """psnr_y minus psnr_y_dense at that frame; with --native: the PSNR against dense there."""
    cuts: list[int]


@dataclass
class Contender:
    """One model and routing, and what it did with the clip in hand."""

    model: str
    routing: str
    forward: Callable[[Frames, RecurrentState | None, bool], ChunkResult]
    wall: list[list[float]] = field(default_factory=list)
    """By chunk, by round; seconds."""
    db: list[float] = field(default_factory=list)
    """By frame: PSNR of Y against the ground truth."""
    mse_to_dense: list[float] = field(default_factory=list)
    units: int = 0
    skipped: int = 0
    cuts: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(median(rounds) for rounds in self.wall)

    @property
    def seconds_min(self) -> float:
        return sum(min(rounds) for rounds in self.wall)


def measure(clips: Sequence[Path], options: Options, weights_dir: Path) -> Iterator[list[Row]]:
    """The rows of one clip after the other. Raises ModelError, and ValueError where a clip cannot be decoded."""
    entrants = [entrant for name in options.models for entrant in _entrants(name, options, weights_dir)]
    for path in clips:
        frames = read_clip(path, options.frames)
        lr, gt = (frames, None) if options.native else reduced(frames, options.degrade)
        del frames
        contenders = [Contender(model, routing, forward) for model, routing, forward in entrants]
        _race(contenders, lr, gt, options)
        yield _rows(path.stem if path.is_file() else path.name, lr, contenders, native=options.native)


def reduced(frames: Frames, how: str = "bi") -> tuple[Frames, Frames]:
    """(LR, ground truth): the clip cropped to multiples of four, and its quarter. Raises CommandError."""
    h, w = (side // SCALE * SCALE for side in frames.shape[1:3])
    gt: Frames = np.ascontiguousarray(frames[:, :h, :w]).astype(np.uint8, copy=False)
    return degraded(gt, how), gt


Entrant = tuple[str, str, Callable[[Frames, RecurrentState | None, bool], ChunkResult]]


def _entrants(name: str, options: Options, weights_dir: Path) -> Iterator[Entrant]:
    model = load_model(
        name,
        weights_dir=weights_dir,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
    )
    for routing in dict.fromkeys([DENSE, *options.routings]):
        changes = {} if routing == DENSE else options.changes
        yield model.name, routing, _forward(model, model.preset(routing, **changes), options.lookahead)
    config = model.config
    if options.with_reference and config.flow == "spynet" and config.tail == "full" and not config.coupled:
        network = reference.Reference(load_network(model.name, weights_dir)[0])
        yield (
            model.name,
            REFERENCE,
            lambda frames, state, last: network.forward(frames, state, lookahead=options.lookahead, last=last),
        )


def _forward(
    model: Upscaler, routing: Preset, lookahead: int
) -> Callable[[Frames, RecurrentState | None, bool], ChunkResult]:
    return lambda frames, state, last: model.forward(frames, state, lookahead=lookahead, last=last, routing=routing)


def _race(contenders: list[Contender], lr: Frames, gt: Frames | None, options: Options) -> None:
    for contender in contenders:  # once, so that nobody pays for first calls
        contender.forward(lr[:3], None, True)
    for number in range(options.rounds):
        states: list[RecurrentState | None] = [None] * len(contenders)
        shown = 0
        for chunk, (group, last) in enumerate(groups(lr, options.chunk, options.lookahead)):
            frames = np.stack(group)
            results: dict[int, ChunkResult] = {}
            for index in _order(len(contenders), chunk + number):
                result = _timed(contenders[index], chunk, frames, states[index], last)
                states[index] = result.state
                if number == 0:
                    results[index] = result
            if number == 0:
                shown = _compare(contenders, results, gt, shown)


def _order(count: int, turn: int) -> list[int]:
    """Who goes when: each begins as often as any other, and goes after any other as often as before it.

    Rotated alone, each has the same one before it all the time; a contender that computes as much as the dense pass
    took up to a tenth longer for it.
    """
    rotated = [(turn // 2 + i) % count for i in range(count)]
    return rotated if turn % 2 == 0 else rotated[::-1]


def _timed(contender: Contender, chunk: int, frames: Frames, state: RecurrentState | None, last: bool) -> ChunkResult:
    result = contender.forward(frames, state, last)
    if len(contender.wall) <= chunk:
        contender.wall.append([])
    contender.wall[chunk].append(sum(report.seconds for report in result.reports))
    return result


def _compare(contenders: list[Contender], results: dict[int, ChunkResult], gt: Frames | None, shown: int) -> int:
    """Add a chunk's figures; `shown` frames came before it. Returns how many have come now."""
    dense = {c.model: i for i, c in enumerate(contenders) if c.routing == DENSE}
    count = 0
    for index, contender in enumerate(contenders):
        result = results[index]
        count = len(result.frames)
        contender.units += sum(report.units_total for report in result.reports)
        contender.skipped += sum(report.units_left_out for report in result.reports)
        contender.cuts += [shown + cut for cut in result.cuts]
    for i in range(count):
        truth = None if gt is None else _luma(gt[shown + i])
        lumas: dict[int, Tensor] = {index: _luma(results[index].frames[i]) for index in dense.values()}
        for index, contender in enumerate(contenders):
            ours = lumas[index] if index in lumas else _luma(results[index].frames[i])
            contender.mse_to_dense.append(_mse(ours, lumas[dense[contender.model]]))
            if truth is not None:
                contender.db.append(_decibel(_mse(ours, truth)))
    return shown + count


def _luma(rgb: Frames) -> Tensor:
    return luma(torch.from_numpy(rgb).permute(2, 0, 1))


def _mse(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean().item()


def _decibel(mse: float) -> float:
    return HIGHEST_DB if mse == 0 else min(10 * math.log10(PEAK * PEAK / mse), HIGHEST_DB)


def _rows(clip: str, lr: Frames, contenders: list[Contender], *, native: bool) -> list[Row]:
    dense = {c.model: c for c in contenders if c.routing == DENSE}
    reference_ = {c.model: c for c in contenders if c.routing == REFERENCE}
    rows = []
    for c in contenders:
        plain, wheel = dense[c.model], reference_.get(c.model)
        worst, worst_db = _worst(c, plain, native=native)
        rows.append(
            Row(
                clip=clip,
                lr_size=f"{lr.shape[2]}x{lr.shape[1]}",
                model=c.model,
                routing=c.routing,
                frames=len(lr),
                ms_per_frame=1000 * c.seconds / len(lr),
                ms_per_frame_min=1000 * c.seconds_min / len(lr),
                speedup=plain.seconds / c.seconds,
                speedup_min=plain.seconds_min / c.seconds_min,
                speedup_over_reference=wheel.seconds / c.seconds if wheel else None,
                skip_ratio=c.skipped / c.units if c.units else 0.0,
                psnr_y=None if native else float(np.mean(c.db)),
                psnr_y_dense=None if native else float(np.mean(plain.db)),
                psnr_y_to_dense=_decibel(float(np.mean(c.mse_to_dense))) if any(c.mse_to_dense) else None,
                worst_frame=worst,
                worst_frame_db=worst_db,
                cuts=c.cuts,
            )
        )
    return rows


def _worst(c: Contender, dense: Contender, *, native: bool) -> tuple[int | None, float | None]:
    if not any(c.mse_to_dense):
        return None, None
    if native:
        frame = int(np.argmax(c.mse_to_dense))
        return frame, _decibel(c.mse_to_dense[frame])
    loss = np.subtract(c.db, dense.db)
    frame = int(np.argmin(loss))
    return frame, float(loss[frame])
