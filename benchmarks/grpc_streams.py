"""Frames per second, and latency of a frame, of gRPC streams of one clip: one stream, and several at once.

Each client sends the clip as fast as the server takes the frames, or `--rate` frames per second like a camera. Server
and clients share the machine.

`--before FOLDER` compares with another checkout of this project: each round runs both servers in turn.

python -m benchmarks.grpc_streams CLIP [--size 320x180] [--model NAME] [--routings off balanced fast] [--streams 1 2]
    [--chunks 24,4 1,0] [--frames N] [--rounds N] [--rate N] [--output FORMAT]
    [--before FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.end_to_end import resized
from benchmarks.report import machine, one_line, show, write_json
from benchmarks.service import service
from media import dataset
from model.engine.memory import keep_freed_memory
from skipvsr.v1 import upscaler_pb2 as pb
from skipvsr_client.live import StreamClient

Frames = NDArray[np.uint8]
FORMATS: Final = {
    "rgb24": pb.FRAME_FORMAT_RGB24,
    "yuv420p": pb.FRAME_FORMAT_YUV420P,
    "jpeg": pb.FRAME_FORMAT_JPEG,
    "h264": pb.FRAME_FORMAT_H264,
}


class Load(NamedTuple):
    """What each client sends and gets."""

    frames: list[Frames]
    rate: float
    """Frames per second; 0: as fast as the server takes them."""
    output: str
    """Format of the answers, a key of `FORMATS`."""


class Case(NamedTuple):
    """What the clients ask for."""

    routing: str
    chunk: int
    lookahead: int
    streams: int


@dataclass(frozen=True)
class StreamRow:
    """One case on one version of the server; medians over the rounds."""

    version: str
    """`now`, or `before` for the other checkout."""
    routing: str
    chunk: int
    lookahead: int
    streams: int
    fps: float
    """Frames of all streams per second, from the first frame sent to the last answer."""
    p50: float
    """Milliseconds from a frame's sending to its answer."""
    p95: float


def main() -> None:
    """Measure, print a table, write JSON."""
    args = _arguments()
    keep_freed_memory()  # client and server have equally large buffers
    facts = machine(torch.device("cpu"))
    print(one_line(facts))
    load = Load(list(resized(dataset.clip(args.clip, args.frames), args.size)), args.rate, args.output)
    cases = [
        Case(routing, chunk, lookahead, streams)
        for routing, (chunk, lookahead), streams in product(args.routings, args.chunks, args.streams)
    ]
    versions = {"now": Path.cwd()} | ({"before": args.before.resolve()} if args.before else {})
    found: dict[tuple[str, Case], list[tuple[float, float, float]]] = {}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(_server(code, args.model)) for name, code in versions.items()}
        for address in servers.values():
            _run(address, load._replace(frames=load.frames[:8], rate=0), cases[0])  # warm
        for _ in range(args.rounds):
            for case, (name, address) in product(cases, servers.items()):
                found.setdefault((name, case), []).append(_run(address, load, case))
    rows = [StreamRow(name, *case, *np.median(values, axis=0).tolist()) for (name, case), values in found.items()]
    headers = ["version", "routing", "chunk", "look-ahead", "streams", "frames/s", "p50 ms", "p95 ms"]
    show(
        Console(width=120),
        headers,
        [[str(round(v, 1) if isinstance(v, float) else v) for v in _cells(r)] for r in rows],
    )
    if args.json:
        asked = {"clip": args.clip.stem, "frames": len(load.frames), "rounds": args.rounds, "rate": args.rate}
        asked["output"] = args.output
        write_json(args.json, {"machine": facts, **asked, "rows": rows})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--size", type=_pair("x"), default=(320, 180), metavar="WxH", help="default: 320x180")
    parser.add_argument("--model", default="small")
    parser.add_argument("--routings", nargs="+", default=["off", "balanced", "fast"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2], metavar="N", help="streams at the same time")
    parser.add_argument("--chunks", type=_pair(","), nargs="+", default=[(24, 4)], metavar="CHUNK,LOOKAHEAD")
    parser.add_argument("--frames", type=int, default=72, help="frames of each stream")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--rate", type=float, default=0, help="frames per second of each stream; 0: as fast as possible"
    )
    parser.add_argument("--output", choices=FORMATS, default="rgb24", help="format of the answers (default: rgb24)")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another checkout, measured in turn")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _pair(separator: str) -> Callable[[str], tuple[int, int]]:
    """Return a parser of two numbers."""

    def parse(text: str) -> tuple[int, int]:
        one, _, other = text.partition(separator)
        return int(one), int(other)

    return parse


def _cells(row: StreamRow) -> list[str | int | float]:
    return list(asdict(row).values())


@contextmanager
def _server(code: Path, model: str) -> Iterator[str]:
    """Address of a gRPC server of the checkout `code`. Its worker stands still: a new worker measures its own speed."""
    settings = {"PYTHONPATH": str(code), "SKIPVSR_DEVICE": "cpu", "SKIPVSR_LOG_LEVEL": "warning"}
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), model, 1, 0, **settings) as running:
        os.kill(running.parts["worker"], signal.SIGSTOP)
        try:
            yield running.grpc
        finally:
            os.kill(running.parts["worker"], signal.SIGCONT)


def _run(address: str, load: Load, case: Case) -> tuple[float, float, float]:
    """Frames per second of all streams, and percentiles of the latency."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(case.streams) as pool:
        latencies = list(pool.map(lambda _: _latencies(address, load, case), range(case.streams)))
    seconds = time.perf_counter() - begun
    p50, p95 = np.percentile(1000 * np.concatenate(latencies), (50, 95)).tolist()
    return case.streams * len(load.frames) / seconds, p50, p95


def _latencies(address: str, load: Load, case: Case) -> list[float]:
    """Seconds from the sending of each frame to its answer."""
    height, width, _ = load.frames[0].shape
    begun, sent, found = time.perf_counter(), list[float](), list[float]()

    def source() -> Iterator[Frames]:
        for number, frame in enumerate(load.frames):
            if load.rate:
                time.sleep(max(0.0, begun + number / load.rate - time.perf_counter()))
            sent.append(time.perf_counter())
            yield frame

    with StreamClient(address) as client:
        answers = client.stream(
            source(),
            width=width,
            height=height,
            routing=case.routing,
            chunk=case.chunk,
            lookahead=case.lookahead,
            output=pb.OutputFormat(format=FORMATS[load.output]),
        )
        for answer in answers:
            found.append(time.perf_counter() - sent[answer.sequence])
    return found


if __name__ == "__main__":
    main()
