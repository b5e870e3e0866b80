"""Estimates against reality: jobs of several models, routings, codecs and sizes through a running service.

    python -m benchmarks.estimates [--videos A B] [--frames MOST] [--json OUT]

Each kind of job runs with two videos. Before any job, only the worker's calibration is known. Each job's estimate as of
submission knows all jobs before. In the second round, each kind of job has run once, with the other video.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import torch
from rich.console import Console

from benchmarks.end_to_end import Size, resized, write
from benchmarks.report import machine, one_line, show, write_json
from benchmarks.service import EXAMPLE, service
from media import dataset

_POLL_SECONDS = 0.5
_CUPS = EXAMPLE.with_name("cups.mp4")


@dataclass(frozen=True)
class Kind:
    """A kind of job."""

    size: Size
    frames: int
    model: str = "small"
    routing: str = "balanced"
    codec: str = "h264"
    scale: int = 4

    @property
    def fields(self) -> dict[str, str]:
        """Fields of the form."""
        return {"model": self.model, "routing": self.routing, "codec": self.codec, "scale": str(self.scale)}


KINDS = (
    Kind((320, 180), 72),
    Kind((320, 180), 72, routing="off"),
    Kind((320, 180), 72, routing="fast"),
    Kind((160, 90), 120),
    Kind((480, 270), 48, routing="fast"),
    Kind((640, 360), 48),
    Kind((320, 180), 48, codec="hevc"),
    Kind((320, 180), 72, scale=2),
    Kind((640, 360), 48, model="tiny", routing="off"),
    Kind((128, 72), 24, model="basicvsr-reds"),
)


@dataclass(frozen=True)
class EstimateRow:
    """A job with its estimates, in seconds."""

    kind: Kind
    video: str
    calibrated: float | None
    """Before any job."""
    estimate: float
    """At submission."""
    low: float
    high: float
    basis: str
    real: float

    @property
    def factor(self) -> float:
        """Estimate at submission over reality."""
        return self.estimate / self.real


def measure(client: httpx.Client, kinds: Sequence[Kind], videos: Sequence[Path], folder: Path) -> Iterator[EstimateRow]:
    """Run the jobs of both rounds."""
    sources = {(kind, video): _source(kind, video, folder) for kind in kinds for video in videos}
    before = {kind: _known(client, kind, sources[kind, videos[0]])["seconds"] for kind in kinds}
    for video in videos:
        for kind in kinds:
            _known(client, kind, sources[kind, video])
            job = _run(client, kind, sources[kind, video])
            guess = job["estimate"]
            if guess is None:  # on a machine so busy that the worker's heartbeat was late
                continue
            yield EstimateRow(
                kind,
                video.stem,
                before[kind],
                guess["seconds"],
                guess["seconds_low"],
                guess["seconds_high"],
                guess["basis"],
                job["metrics"]["processing_seconds"],
            )


def estimated(client: httpx.Client, kind: Kind, source: Path) -> dict[str, Any]:
    """The answer of `POST /estimate` for a small file, which is sent whole."""
    data = source.read_bytes()
    answer = client.post("/estimate", data={**kind.fields, "size": str(len(data))}, files={"head": data})
    document: dict[str, Any] = answer.raise_for_status().json()
    return document


def _known(client: httpx.Client, kind: Kind, source: Path) -> dict[str, Any]:
    """An estimate, once the worker has been calibrated."""
    while (document := estimated(client, kind, source))["seconds"] is None:
        time.sleep(_POLL_SECONDS)
    return document


def _run(client: httpx.Client, kind: Kind, source: Path) -> dict[str, Any]:
    with source.open("rb") as file:
        answer = client.post("/upscale", data=kind.fields, files={"file": file})
    job: dict[str, Any] = answer.raise_for_status().json()
    while job["state"] in ("queued", "running"):
        time.sleep(_POLL_SECONDS)
        job = client.get(f"/jobs/{job['id']}").raise_for_status().json()
    if job["state"] != "done":
        raise RuntimeError(f"job {job['state']}: {job['error']}")
    return job


def _source(kind: Kind, video: Path, folder: Path) -> Path:
    path = folder / f"{video.stem}-{kind.size[0]}x{kind.size[1]}-{kind.frames}.mp4"
    if not path.exists():
        frames = resized(dataset.clip(video, kind.frames), kind.size)
        forth_and_back = np.concatenate([frames, frames[::-1]])
        repeats = math.ceil(kind.frames / len(forth_and_back))
        write(path, np.concatenate([forth_and_back] * repeats)[: kind.frames])
    return path


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, nargs=2, default=[_CUPS, EXAMPLE])
    parser.add_argument("--frames", type=int, default=10_000, help="most frames of a job")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    kinds = [replace(kind, frames=min(kind.frames, args.frames)) for kind in KINDS]
    facts, console = machine(torch.device("cpu")), Console(width=140)
    rows: list[EstimateRow] = []
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), "small", 1, 0) as running:
        for row in measure(running.client, kinds, args.videos, Path(folder)):
            rows.append(row)
            console.print("  ".join(_cells(row)), highlight=False)
    first, second = ([row for row in rows if row.video == video.stem] for video in args.videos)
    console.print(one_line(facts), highlight=False)
    console.print(f"load average at the end: {os.getloadavg()[0]:.1f}", highlight=False)
    headers = ["video", "model", "routing", "codec", "source", "×", "frames", "real s"]
    headers += ["calibrated s", "/ real", "estimate s", "/ real", "low to high", "basis"]
    show(console, headers, [_cells(row) for row in rows])
    for title, factors in (
        ("calibrated", [row.calibrated / row.real for row in first if row.calibrated]),
        ("at submission, first round", [row.factor for row in first]),
        ("at submission, second round", [row.factor for row in second]),
    ):
        typical = math.exp(median(abs(math.log(factor)) for factor in factors))
        worst = math.exp(max(abs(math.log(factor)) for factor in factors))
        console.print(f"{title}: median factor {typical:.2f}, largest {worst:.2f}", highlight=False)
    inside = sum(row.low <= row.real <= row.high for row in rows)
    console.print(f"within the bounds: {inside} of {len(rows)}", highlight=False)
    if args.json:
        write_json(args.json, {"machine": facts, "rows": [asdict(row) for row in rows]})


def _cells(row: EstimateRow) -> list[str]:
    kind = row.kind
    cells = [row.video, kind.model, kind.routing, kind.codec, "{}×{}".format(*kind.size), str(kind.scale)]
    cells += [str(kind.frames), f"{row.real:.1f}"]
    cells += [f"{row.calibrated:.1f}", f"{row.calibrated / row.real:.2f}"] if row.calibrated else ["–", "–"]
    return [*cells, f"{row.estimate:.1f}", f"{row.factor:.2f}", f"{row.low:.1f} to {row.high:.1f}", row.basis]


if __name__ == "__main__":
    main()
