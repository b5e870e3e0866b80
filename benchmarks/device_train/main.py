"""The training run on a device: unpack the data, check them, train, write weights and log."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch

from benchmarks.device_train.arrival import decode
from benchmarks.device_train.recipes import recipe
from benchmarks.device_train.timed import Budget, TimedRun, check_finite
from model.device import resolve_device, set_threads
from model.errors import ModelError
from model.training.packing import unpack
from weights import FOLDER as PACKAGED

RUNS: Final = ("basicvsr", "small")
INITS: Final = {"basicvsr": ("basicvsr-reds.safetensors", "BasicVSR_REDS4.pth"), "small": ("small.safetensors",)}
"""Files with the initial weights of each run; the first one that exists counts."""
FIRST_SHARE: Final = 0.7
"""Part of the time of the first of two runs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return 1 if the data are damaged, or a run fails or makes its network worse."""
    args = _arguments().parse_args(argv)
    say, end = partial(print, flush=True), time.monotonic() + args.seconds
    try:
        device = resolve_device(args.device)
        if device.type == "cpu":
            set_threads(1 if args.tiny else 0)
        with tempfile.TemporaryDirectory() as cache:
            unpack(args.data, Path(cache), decode, say)
            for index, name in enumerate(args.runs):
                share = FIRST_SHARE if index < len(args.runs) - 1 else 1.0
                budget = Budget(time.monotonic() + (end - time.monotonic()) * share, args.validate_every)
                made = recipe(name, _init(name, args.data.parent), tiny=args.tiny)
                check_finite(TimedRun(name, made, Path(cache), args.out, device, budget, say).run())
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    if device.type == "cuda":
        say(f"peak memory: {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device_train", description="Train within minutes.")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="file of `skipvsr pack`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for weights and logs")
    parser.add_argument("--seconds", type=float, default=480, help="time for everything (default: 480)")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="runs, in this order")
    parser.add_argument("--validate-every", type=float, default=90, metavar="SECONDS", help="default: 90")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--tiny", action="store_true", help="tiny networks with random weights: a rehearsal")
    return parser


def _init(name: str, beside: Path) -> Path:
    """Return the initial weights: beside the data, in data/weights, or packaged. The trainer says if none exists."""
    places = [folder / file for file in INITS[name] for folder in (beside, Path("data/weights"), PACKAGED)]
    return next((path for path in places if path.is_file()), places[0])
