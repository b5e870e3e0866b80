"""`skipvsr eval`: quality of a model on clips, with time and skip ratio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import click

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

if TYPE_CHECKING:
    import torch

    from benchmarks.quality import Quality


@click.command(cls=Command)
@option("--gt", type=FOLDER, required=True, metavar="DIR", help="Clips: videos or PNG folders")
@option("--lr", type=FOLDER, metavar="DIR", help="Low resolution, same names; or --degrade")
@option("--degrade", default="bi", metavar="HOW", help="LR by bi, bd, h264:CRF, mpeg4:Q, mpeg2:Q")
@option("--model", type=ModelName(), default="auto", help=f"Model: {MODEL_HELP}")
@option("--routing", type=click.Choice(ROUTINGS), default="off", help="Work to skip")
@option("--frames", type=COUNT, metavar="N", help="First N frames of each clip; default: all")
@option("--scale", type=click.IntRange(min=2), metavar="N", help="Enlargement; default: the model's")
@option("--json", type=FILE, metavar="FILE", help="Write the rows as JSON, after each clip")
def command(
    gt: Path,
    lr: Path | None,
    degrade: str,
    model: str,
    routing: str,
    frames: int | None,
    scale: int | None,
    json: Path | None,
) -> int:
    """Measure the quality of a model: PSNR, SSIM, flicker."""
    return run(
        gt,
        lr=lr,
        how=degrade,
        model=model,
        routing=routing,
        frames=frames,
        scale=scale,
        out=json,
        weights_dir=read_settings().weights,
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
    scale: int | None = None,
) -> int:
    """Measure `model` on the clips in `gt`; print a row for each clip, and write the rows to `out`.

    LR clips come from the folder `lr`, or are made by `how`. `scale` is the enlargement; default: the model's.
    Raises CommandError, ModelError and OSError.
    """
    from benchmarks.quality import evaluate
    from commands.shared.naming import check_names
    from model.engine.loading import load_model

    if lr is not None and not lr.is_dir():
        raise CommandError(f"{lr}: not a folder")
    if out is not None:
        check_names(None, {"the result": out})
    upscaler = load_model(model, weights_dir=weights_dir, enlargement=scale)
    rows: list[Quality] = []
    try:
        for row in evaluate(upscaler, gt, lr, how, routing, frames, scale):
            rows.append(row)
            print(_text(row), flush=True)
            if out is not None:  # after each clip: a later error keeps the finished rows
                _write(out, rows, upscaler.device, how if lr is None else None)
    except ValueError as error:
        raise CommandError(str(error)) from error
    gain = fmean(r.psnr_y for r in rows) - fmean(r.bicubic_psnr_y for r in rows)
    print(f"mean of clips: {fmean(r.psnr_y for r in rows):.3f} dB, {gain:+.3f} dB over bicubic")
    return 0


def _write(out: Path, rows: Sequence[Quality], device: torch.device, how: str | None) -> None:
    from benchmarks.report import machine, write_json

    content: dict[str, object] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "degrade": how,
        "rows": [asdict(row) for row in rows],
    }
    write_json(out, content)


def _text(r: Quality) -> str:
    return (
        f"{r.clip:<18} {r.model} {r.routing}  Y {r.psnr_y:.3f} dB (bicubic {r.bicubic_psnr_y:.3f})  "
        f"RGB {r.psnr_rgb:.3f}  SSIM {r.ssim_y:.4f}  flicker {r.flicker:.3f}  {r.ms_per_frame:.1f} ms  "
        f"skipped {r.skip_ratio:.1%}  {r.speedup:.2f}x"
    )
