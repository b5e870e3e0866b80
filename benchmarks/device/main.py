"""The run: sections in order of worth, each with a share of the time; a table last."""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from benchmarks.device import ceilings, exactness, faults, operations, precision, routing, speed, variants
from benchmarks.device.results import Results, Section
from benchmarks.device.session import Items, Session
from benchmarks.device.table import table
from model.device import resolve_device, set_threads
from model.errors import DeviceError


@dataclass(frozen=True)
class Part:
    """A section of the run."""

    name: str
    share: float
    """Share of the time, relative to the shares of the other sections. Unused time goes to the sections behind."""
    items: Items


PARTS: Final = (
    Part("ceilings", 6, ceilings.items),
    Part("precision", 10, precision.items),
    Part("operations", 8, operations.items),
    Part("exactness", 14, exactness.items),
    Part("speed", 32, speed.items),
    Part("routing", 10, routing.items),
    Part("variants", 12, variants.items),
    Part("faults", 8, faults.items),
)


def main(argv: Sequence[str] | None = None, *, ends: bool = False) -> int:
    """Run; return 1 if a check fails, and 2 for wrong usage. With `ends`, the process ends if the device hangs."""
    args = _arguments().parse_args(argv)
    wanted = args.only.split(",") if args.only else [part.name for part in PARTS]
    if unknown := sorted(set(wanted) - {part.name for part in PARTS}):
        print(f"no section {', '.join(unknown)}; sections: {', '.join(part.name for part in PARTS)}", file=sys.stderr)
        return 2
    try:
        device = resolve_device(args.device)
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 1
    if device.type == "cpu":
        set_threads(1 if args.tiny else 0)
    elif device.index is not None:
        torch.cuda.set_device(device)  # events and graphs are those of the current device
    args.out.mkdir(parents=True, exist_ok=True)
    if ends:
        faulthandler.dump_traceback_later(args.seconds * 1.25 + 60, exit=True)
    results = Results(args.out, {"device": str(device), "seconds": args.seconds, "tiny": args.tiny})
    session = Session(device, args.tiny, args.weights, time.monotonic() + args.seconds)
    _run(session, [part for part in PARTS if part.name in wanted], results)
    if ends:
        faulthandler.cancel_dump_traceback_later()
    text = table(results)
    (args.out / "device.txt").write_text(text + "\n")
    print(text)
    return 1 if results.failed else 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description="Check and measure a device.")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--seconds", type=float, default=420, help="time for all sections (default: 420)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for device.json and device.txt")
    parser.add_argument("--only", default="", metavar="A,B", help=f"sections: {', '.join(p.name for p in PARTS)}")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and frames: a rehearsal of some seconds")
    parser.add_argument(
        "--weights", type=Path, default=Path("data/weights"), metavar="DIR", help="folder of the official weights"
    )
    return parser


def _run(session: Session, parts: Sequence[Part], results: Results) -> None:
    """Run the parts one after the other, each within its share of the time that is left."""
    for index, part in enumerate(parts):
        now = time.monotonic()
        share = part.share / sum(other.share for other in parts[index:])
        session.section_end = now + max(session.end - now, 0.0) * share
        section = Section(part.name)
        results.sections.append(section)
        _run_items(session, part, section)
        section.seconds = round(time.monotonic() - now, 2)
        results.write()
        bad = sum(not check.ok for check in section.checks)
        print(f"{part.name}: {section.seconds:.0f} s, {bad} of {len(section.checks)} checks failed", flush=True)


def _run_items(session: Session, part: Part, section: Section) -> None:
    """Run the items until the section's time is over; an error of one item fails the item alone."""
    for name, work in part.items(session):
        if session.left() <= 0:
            section.skip(name, "no time left")
            continue
        try:
            work(section)
        except Exception as error:
            section.check(name, False, f"{type(error).__name__}: {error}".splitlines()[0][:200])
