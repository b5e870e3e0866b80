"""Frames per second of `skipvsr upscale`, file to file, from 320x180 or another size to four times that size.

Each clip is cropped to the shape of the size, resized (bicubic), written as H.264, and upscaled in a process of its
own. The time comes from the command's report: from the first frame to the last, without start-up and loading of
weights.

python -m benchmarks.end_to_end CLIPS [--size 320x180] [--model NAME] [--routings balanced off] [--frames N]
    [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument(
        "--size", type=_size, default=(320, 180), metavar="WxH", help="of the source (default: 320x180)"
    )
    parser.add_argument("--model", default="small")
    parser.add_argument("--routings", nargs="+", default=["balanced", "off"])
    parser.add_argument("--frames", type=int, default=72)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[FileRow] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in dataset.clips(args.clips):
            source = Path(folder, f"{path.stem}.mp4")
            write(source, resized(dataset.clip(path, args.frames), args.size))
            reports: dict[str, list[dict[str, Any]]] = {routing: [] for routing in args.routings}
            for _ in range(args.rounds):
                for routing in args.routings:
                    reports[routing].append(_upscale(source, Path(folder), args.model, routing))
            rows += [_row(path.stem, args.model, routing, reports[routing]) for routing in args.routings]
    headers = ["clip", "model", "routing", "frames", "fps", "min/min", "speedup", "skipped"]
    cells = [
        [r.clip, r.model, r.routing, str(r.frames), *(f"{x:.2f}" for x in (r.fps, r.minutes, r.speedup, r.skip_ratio))]
        for r in rows
    ]
    show(Console(width=120), headers, cells)
    if args.json:
        facts = machine(torch.device("cpu"))
        write_json(
            args.json, {"machine": facts, "size": "{}x{}".format(*args.size), "rounds": args.rounds, "rows": rows}
        )


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


def _upscale(source: Path, folder: Path, model: str, routing: str) -> dict[str, Any]:
    report = folder / "report.json"
    command: list[str | Path] = [sys.executable, "-m", "cli", "upscale", source, folder / "out.mp4", "--report", report]
    size = ["--scale", "4", "--overwrite"]
    subprocess.run([*command, *size, "--model", model, "--routing", routing], check=True, capture_output=True)
    content: dict[str, Any] = json.loads(report.read_text())
    return content


def _row(clip: str, model: str, routing: str, reports: list[dict[str, Any]]) -> FileRow:
    frames = reports[0]["progress"]["frames_done"]
    seconds = median(report["metrics"]["processing_seconds"] for report in reports)
    speedup = median(report["metrics"]["speedup"] for report in reports)
    return FileRow(clip, model, routing, frames, frames / seconds, speedup, reports[0]["metrics"]["skip_ratio"])


if __name__ == "__main__":
    main()
