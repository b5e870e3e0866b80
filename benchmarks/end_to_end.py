"""Frames per second of `skipvsr upscale`, file to file, from 320x180 or another size to two to four times that size.

Each clip is cropped to the shape of the size, resized (bicubic), written as H.264, and upscaled in a process of its
own. The time comes from the command's report: from the first frame to the last, without start-up and loading of
weights.

`--before FOLDER` compares with another checkout of this project: each round runs both versions in turn, and a second
table shows the ratio of their medians.

python -m benchmarks.end_to_end CLIPS [--size 320x180] [--scale N] [--model NAME] [--routings balanced off]
    [--frames N] [--rounds N] [--only WORD ...] [--before FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from rich.console import Console

from benchmarks.report import machine, show, write_json
from media import dataset
from media.encode.encoders import repeatable_x264
from model.engine.upscaler import Frames
from model.training.degrade import resize, to_uint8

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class FileRow:
    """One clip with one routing; medians over the rounds."""

    clip: str
    version: str
    """`now`, or `before` for the other checkout."""
    model: str
    routing: str
    frames: int
    fps: float
    speedup: float
    """From the report: dense time divided by time, of the network."""
    skip_ratio: float

    @property
    def minutes(self) -> float:
        """Minutes of work per minute of video with 30 frames per second."""
        return 30 / self.fps


def main() -> None:
    """Measure, print a table, write JSON."""
    args = _arguments()
    versions = {"now": Path.cwd()} | ({"before": args.before.resolve()} if args.before else {})
    rows: list[FileRow] = []
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        for path in dataset.clips(args.clips):
            if any(word in path.stem for word in args.only):
                source = Path(folder, f"{path.stem}.mp4")
                write(source, resized(dataset.clip(path, args.frames), args.size))
                options = ["--scale", str(args.scale), "--model", args.model]
                rows += _measured(source, options, args.routings, versions, args.rounds)
    _show(console, rows)
    if args.before:
        _compare(console, rows)
    if args.json:
        facts = machine(torch.device("cpu"))
        size = "{}x{}".format(*args.size)
        content = {"machine": facts, "size": size, "scale": args.scale, "rounds": args.rounds, "rows": rows}
        write_json(args.json, content)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument(
        "--size", type=_size, default=(320, 180), metavar="WxH", help="of the source (default: 320x180)"
    )
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--model", default="small", help="auto: each version chooses (default: small)")
    parser.add_argument("--routings", nargs="+", default=["balanced", "off"])
    parser.add_argument("--frames", type=int, default=72)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="clips whose names hold a word")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another checkout, measured in turn")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _measured(
    source: Path, options: list[str], routings: list[str], versions: dict[str, Path], rounds: int
) -> list[FileRow]:
    """Upscale a file with each routing and version in turn, several rounds."""
    cases = [(routing, version) for routing in routings for version in versions]
    reports: dict[tuple[str, str], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for routing, version in cases:
            reports[routing, version].append(_upscale(source, versions[version], [*options, "--routing", routing]))
    return [_row(source.stem, version, routing, reports[routing, version]) for routing, version in cases]


def _show(console: Console, rows: list[FileRow]) -> None:
    headers = ["clip", "version", "model", "routing", "frames", "fps", "min/min", "speedup", "skipped"]
    cells = []
    for r in rows:
        figures = (f"{x:.2f}" for x in (r.fps, r.minutes, r.speedup, r.skip_ratio))
        cells.append([r.clip, r.version, r.model, r.routing, str(r.frames), *figures])
    show(console, headers, cells)


def _compare(console: Console, rows: list[FileRow]) -> None:
    """Show for each clip and routing how many times as fast this version is, with the geometric mean of the clips."""
    fps = {(r.clip, r.routing, r.version): r.fps for r in rows}
    clips, routings = list(dict.fromkeys(r.clip for r in rows)), list(dict.fromkeys(r.routing for r in rows))
    ratios = {c: [fps[c, routing, "now"] / fps[c, routing, "before"] for routing in routings] for c in clips}
    means = [geometric_mean(column) for column in zip(*ratios.values(), strict=True)]
    cells = [[name, *(f"{x:.2f}" for x in row)] for name, row in [*ratios.items(), ("geometric mean", means)]]
    show(console, ["now over before", *routings], cells)


def _size(text: str) -> Size:
    width, _, height = text.partition("x")
    return int(width), int(height)


def resized(frames: Frames, size: Size) -> Frames:
    """Cut the centre of each frame [H, W, 3] in the shape of `size`, and resize the centre to `size`."""
    h, w = frames.shape[1:3]
    height, width = min(h, w * size[1] // size[0]), min(w, h * size[0] // size[1])
    top, left = (h - height) // 2, (w - width) // 2
    cropped = frames[:, top : top + height, left : left + width]
    low = [
        to_uint8(resize(torch.from_numpy(np.ascontiguousarray(f)).permute(2, 0, 1).float(), size[1], size[0]))
        for f in cropped
    ]
    return np.stack([x.permute(1, 2, 0).numpy() for x in low])


def write(path: Path, frames: Frames) -> None:
    """Write frames [T, H, W, 3] as H.264."""
    with av.open(str(path), "w") as container:
        options = {"crf": "20", "preset": "medium", "x264-params": ":".join(repeatable_x264())}
        stream = container.add_stream("libx264", rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for array in frames:
            container.mux(stream.encode(VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))


def _upscale(source: Path, code: Path, options: list[str]) -> dict[str, Any]:
    """Run the command of the checkout `code`, and return its report."""
    report, out = source.with_name("report.json"), source.with_name("out.mp4")
    command: list[str | Path] = [sys.executable, "-m", "cli", "upscale", source, out, "--report", report]
    subprocess.run([*command, "--overwrite", *options], cwd=code, check=True, capture_output=True)
    content: dict[str, Any] = json.loads(report.read_text())
    return content


def _row(clip: str, version: str, routing: str, reports: list[dict[str, Any]]) -> FileRow:
    frames = reports[0]["progress"]["frames_done"]
    seconds = median(report["metrics"]["processing_seconds"] for report in reports)
    speedup = median(report["metrics"]["speedup"] for report in reports)
    return FileRow(
        clip,
        version,
        reports[0]["model"],
        routing,
        frames,
        frames / seconds,
        speedup,
        reports[0]["metrics"]["skip_ratio"],
    )


if __name__ == "__main__":
    main()
