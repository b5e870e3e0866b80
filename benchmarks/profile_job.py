"""Where the CPU time of one job goes, file to file: by part, thread and process, for each frame.

    python -m benchmarks.profile_job CLIP [--code FOLDER…] [--size W H] [--frames N] [--model NAME] [--routing NAME]
        [--rounds N] [--json FILE]

The clip is resized and written as H.264, as in `benchmarks.end_to_end`; `skipvsr upscale` then runs in a process of its
own, with a clock in each part (`benchmarks.profiled`). `--code` names checkouts to compare; their runs alternate.
Figures are medians over the rounds. Parts of a thread exclude the parts inside them. `…'s libraries` are the threads
that libraries began from a thread: torch's from the network's, the encoder's from the main thread. The network's own
further threads count in the second table only. The threads of a segment's encoder end with the segment, so up to 20 ms
of each are missing there; `ended threads` holds this rest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from rich.console import Console

from benchmarks.end_to_end import resized, write
from benchmarks.report import machine, one_line, show, write_json
from media import dataset

ROOT: Final = Path(__file__).parents[1]
_RUNNER: Final = Path(__file__).with_name("profiled.py")
_MARKS: Final = (
    ("imports", "imports done"),
    ("load the model", "model loaded"),
    ("probe", "source probed"),
    ("calibrate", "machine calibrated"),
    ("gather chunks", "first chunk begun"),
    ("encode: send", "first frame encoded"),
    ("checkpoint", "last chunk saved"),
    ("write the result", "result written"),
)
_BEGINS: Final = ("gather chunks", "encode: send")
"""Parts whose beginning counts, not their end."""
Figures = dict[str, dict[str, float]]
"""`parts`, `threads` and `seconds`: name → value."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--code", type=Path, nargs="+", default=[ROOT], metavar="FOLDER", help="checkouts to measure")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 180), metavar=("W", "H"), help="of the source")
    parser.add_argument("--frames", type=int, default=72)
    parser.add_argument("--model", default="small")
    parser.add_argument("--routing", default="fast")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    codes: list[Path] = [code.resolve() for code in args.code]
    runs: dict[Path, list[Figures]] = {code: [] for code in codes}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.mp4")
        frames = resized(dataset.clip(args.clip, args.frames), tuple(args.size))
        write(source, frames)
        for _ in range(args.rounds):
            for code in codes:
                runs[code].append(measure(code, source, args.model, args.routing))
    merged = {str(code): {kind: _medians(found, kind) for kind in found[0]} for code, found in runs.items()}
    console = Console(width=120)
    for kind, unit, per in (("parts", "ms a frame", len(frames)), ("threads", "ms a frame", len(frames))):
        _table(console, f"{kind}, {unit}", [figures[kind] for figures in merged.values()], 1000 / per)
    _table(console, "seconds from the start", [figures["seconds"] for figures in merged.values()], 1)
    facts = machine(torch.device("cpu"))
    console.print(one_line(facts))
    if args.json:
        write_json(args.json, {"machine": facts, "frames": len(frames), "rounds": args.rounds, "code": merged})
    return 0


def measure(code: Path, source: Path, model: str, routing: str) -> Figures:
    """Upscale a file with the code of a checkout; return the figures."""
    target, report = source.with_name("out.mp4"), source.with_name("figures.json")
    arguments: list[str | Path] = [
        "upscale",
        source,
        target,
        "--overwrite",
        "--scale",
        "4",
        "--model",
        model,
        "--routing",
        routing,
    ]
    # The command sets the spin count before torch is imported; here, torch is imported before the command.
    environment = {**os.environ, "GOMP_SPINCOUNT": "10000", "SKIPVSR_DATA_DIR": str(source.parent)}
    begun = time.monotonic()
    command: list[str | Path] = [sys.executable, "-P", _RUNNER, report, repr(begun), *arguments]
    subprocess.run(command, check=True, capture_output=True, cwd=code, env=environment)
    ended = time.monotonic() - begun
    found: dict[str, Any] = json.loads(report.read_text())
    threads = found["threads"]
    threads["ended threads"] = max(0.0, found["process"] - sum(threads.values()))
    threads["all of the process"] = found["process"]
    seconds = {
        mark: found["first" if part in _BEGINS else "last"][part] for part, mark in _MARKS if part in found["last"]
    }
    return {"parts": found["parts"], "threads": threads, "seconds": {**seconds, "process ended": ended}}


def _medians(runs: Sequence[Figures], kind: str) -> dict[str, float]:
    names = dict.fromkeys(name for run in runs for name in run[kind])
    return {name: median(run[kind].get(name, 0.0) for run in runs) for name in names}


def _table(console: Console, title: str, columns: Sequence[dict[str, float]], factor: float) -> None:
    """Print a row for each name, and a column for each checkout."""
    names: Iterable[str] = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, "", "", *(f"{factor * column.get(name, 0.0):.2f}" for column in columns)] for name in names]
    show(console, [title, "", "", *(f"code {number}" for number in range(1, len(columns) + 1))], rows)
    console.print()


if __name__ == "__main__":
    sys.exit(main())
