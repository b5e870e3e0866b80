"""`skipvsr eval`: quality of a model over clips, as the papers count it, with time and what was skipped."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

import click
import numpy as np
import torch
from torch import Tensor

from benchmarks.report import machine
from commands.shared.command_line import (
    COUNT,
    FILE,
    FOLDER,
    MODEL_HELP,
    ROUTINGS,
    Command,
    ModelName,
    option,
    read_settings,
)
from commands.shared.errors import CommandError
from commands.shared.naming import beside, check_names
from media import dataset
from model import quality as metrics
from model.engine.state import RecurrentState
from model.engine.upscaler import Frames, Upscaler, groups, load_model
from model.routing import RoutingReport
from model.training import degrade

_SMALLEST = 12
"""HR rows and columns: SSIM's window has eleven, and a multiple of four is upscaled."""

_QUALITIES = {"h264": (0, 51), **dict.fromkeys(dataset.MPEG, (1, 31))}
"""What a codec's quality may be, by the codec's name."""


@dataclass(frozen=True)
class Row:
    """One clip. Quality: means over its frames, nothing cropped; `speedup` against dense time on this machine."""

    clip: str
    model: str
    routing: str
    frames: int
    psnr_y: float
    psnr_rgb: float
    ssim_y: float
    bicubic_psnr_y: float
    flicker: float
    """Mean absolute error of the change from frame to frame, in levels of Y."""
    ms_per_frame: float
    skip_ratio: float
    speedup: float


def degraded(hr: Frames, how: str) -> Frames:
    """LR [T, h, w, 3] of ground truth [T, H, W, 3]: `bi`, `bd`, or BI and then a codec. Raises CommandError."""
    name, _, quality = how.partition(":")
    if how in degrade.CLEAN:
        return _each(hr, degrade.CLEAN[how])
    least, most = _QUALITIES.get(name, (0, -1))
    if not quality.isdecimal() or not least <= int(quality) <= most:
        raise CommandError(
            f"--degrade {how}: must be bi, bd, h264:CRF with a CRF of 0 to 51, mpeg4:Q or mpeg2:Q with a Q of 1 to 31"
        )
    lr = _each(hr, degrade.bi).astype(np.uint8)
    return dataset.h264(lr, int(quality), "medium") if name == "h264" else dataset.mpeg(lr, name, int(quality))


def score(upscaler: Upscaler, name: str, hr: Frames, lr: Frames, routing: str, chunk: int, lookahead: int) -> Row:
    """Upscale `lr` [T, h, w, 3] as a job would, and hold it against `hr` [T, 4 h, 4 w, 3]."""
    for each in dict.fromkeys(["off", routing]):  # once, so that neither pays for first calls
        upscaler.forward(lr[:3], None, lookahead=lookahead, last=True, routing=each)
    dense_ms, _, dense = _upscale(upscaler, lr, "off", chunk, lookahead)
    ms, skipped, frames = (
        (dense_ms, 0.0, dense) if routing == "off" else _upscale(upscaler, lr, routing, chunk, lookahead)
    )
    out, gt, low = _planar(frames), _planar(hr), _planar(lr)
    pairs = list(zip(out, gt, strict=True))
    bicubic = [degrade.to_uint8(degrade.bicubic_up(frame)) for frame in low]
    changes = [metrics.flicker(out[i - 1], out[i], gt[i - 1], gt[i]) for i in range(1, len(gt))]
    return Row(
        clip=name,
        model=upscaler.name,
        routing=routing,
        frames=len(gt),
        psnr_y=fmean(min(metrics.psnr_y(a, b), metrics.MAX_DB) for a, b in pairs),
        psnr_rgb=fmean(min(metrics.psnr(a, b), metrics.MAX_DB) for a, b in pairs),
        ssim_y=fmean(metrics.ssim_y(a, b) for a, b in pairs),
        bicubic_psnr_y=fmean(min(metrics.psnr_y(a, b), metrics.MAX_DB) for a, b in zip(bicubic, gt, strict=True)),
        flicker=fmean(changes) if changes else 0.0,
        ms_per_frame=ms,
        skip_ratio=skipped,
        speedup=dense_ms / ms,
    )


def run(
    gt: Path,
    *,
    lr: Path | None,
    how: str,
    model: str,
    routing: str,
    frames: int | None,
    out: Path | None,
    weights_dir: Path,
    chunk: int = 24,
    lookahead: int = 4,
    device: str = "auto",
) -> int:
    """Evaluate over the clips in folder `gt`, LR from `lr` or made by `how`; prints rows, writes JSON to `out`.

    Raises CommandError, ModelError and OSError.
    """
    if lr is not None and not lr.is_dir():
        raise CommandError(f"{lr}: not a folder")
    if out is not None:
        check_names(None, {"the result": out})
    upscaler = load_model(model, weights_dir=weights_dir, device=device)
    rows: list[Row] = []
    try:
        for path in dataset.clips(gt):
            hr = dataset.clip(path, frames)
            h, w = (side // degrade.SCALE * degrade.SCALE for side in hr.shape[1:3])
            if min(h, w) < _SMALLEST:
                raise CommandError(f"{path.name}: {_size(hr)} is too small; {_SMALLEST}x{_SMALLEST} it has to be")
            hr = np.ascontiguousarray(hr[:, :h, :w])
            low = degraded(hr, how) if lr is None else dataset.clip(_same_name(path, lr), frames)
            if (low.shape[0], low.shape[1] * degrade.SCALE, low.shape[2] * degrade.SCALE) != hr.shape[:3]:
                raise CommandError(f"{path.name}: LR of {_size(low)} is no quarter of the ground truth, {_size(hr)}")
            row = score(upscaler, _name(path), hr, low, routing, chunk, lookahead)
            rows.append(row)
            print(_text(row), flush=True)
            if out is not None:  # each time: an error in a later clip does not lose the hours before
                _write(out, rows, upscaler, how if lr is None else None)
    except ValueError as error:
        raise CommandError(str(error)) from error
    gain = fmean(r.psnr_y for r in rows) - fmean(r.bicubic_psnr_y for r in rows)
    print(f"mean of clips: {fmean(r.psnr_y for r in rows):.3f} dB, {gain:+.3f} dB over bicubic")
    return 0


def _write(out: Path, rows: list[Row], upscaler: Upscaler, how: str | None) -> None:
    part = beside(out, ".part")
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(upscaler.device),
        "degrade": how,
        "rows": [asdict(row) for row in rows],
    }
    part.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(part, out)  # noqa: PTH105 (says what it does)


def _text(r: Row) -> str:
    return (
        f"{r.clip:<18} {r.model} {r.routing}  Y {r.psnr_y:.3f} dB (bicubic {r.bicubic_psnr_y:.3f})  "
        f"RGB {r.psnr_rgb:.3f}  SSIM {r.ssim_y:.4f}  flicker {r.flicker:.3f}  {r.ms_per_frame:.1f} ms  "
        f"skipped {r.skip_ratio:.1%}  {r.speedup:.2f}x"
    )


def _name(path: Path) -> str:
    """A clip's: its file's without suffix, or its folder's."""
    return path.name if path.is_dir() else path.stem


def _same_name(path: Path, folder: Path) -> Path:
    found = [p for p in folder.iterdir() if _name(p) == _name(path)]
    if len(found) != 1:
        number = "several clips" if found else "no clip"
        raise CommandError(f"{folder}: holds {number} named {_name(path)}")
    return found[0]


def _size(frames: Frames) -> str:
    return f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}"


def _upscale(upscaler: Upscaler, lr: Frames, routing: str, chunk: int, lookahead: int) -> tuple[float, float, Frames]:
    """(ms a frame, skip ratio, frames) of a clip as one stream."""
    state: RecurrentState | None = None
    done: list[Frames] = []
    reports: list[RoutingReport] = []
    for group, last in groups(lr, chunk, lookahead):
        result = upscaler.forward(np.stack(group), state, lookahead=lookahead, last=last, routing=routing)
        state = result.state
        done.append(result.frames)
        reports += result.reports
    total = sum(r.units_total for r in reports)
    ms = 1000 * fmean(r.seconds for r in reports)
    frames: Frames = np.concatenate(done).astype(np.uint8, copy=False)
    return ms, sum(r.units_left_out for r in reports) / total if total else 0.0, frames


def _planar(frames: Frames) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)


def _each(frames: Frames, how: object) -> Frames:
    assert callable(how)
    return np.stack([degrade.to_uint8(how(x)).permute(1, 2, 0).numpy() for x in _planar(frames)])


@click.command(cls=Command)
@option("--gt", type=FOLDER, required=True, metavar="DIR", help="Ground truth: videos or PNG folders")
@option("--lr", type=FOLDER, metavar="DIR", help="Low resolution, same names; or --degrade")
@option("--degrade", default="bi", metavar="HOW", help="LR by bi, bd, h264:CRF, mpeg4:Q, mpeg2:Q")
@option("--model", type=ModelName(), default="auto", help=f"Model: {MODEL_HELP}")
@option("--routing", type=click.Choice(ROUTINGS), default="off", help="How much work to skip")
@option("--frames", type=COUNT, metavar="N", help="First N frames of each clip; default: all")
@option("--json", type=FILE, metavar="FILE", help="Write the rows as JSON")
def command(
    gt: Path, lr: Path | None, degrade: str, model: str, routing: str, frames: int | None, json: Path | None
) -> int:
    """Measure the quality of a model: PSNR, SSIM, flicker."""
    weights_dir = read_settings().weights
    return run(gt, lr=lr, how=degrade, model=model, routing=routing, frames=frames, out=json, weights_dir=weights_dir)
