"""Cost of each encoder and preset at 1280×720: milliseconds a frame, bytes and PSNR at one quality setting.

    python -m benchmarks.encoders CLIP [--frames 48] [--threads 4] [--crf 18]

The clip's frames are scaled to 1280×720 first. The presets in media/encode/encoders.py come from this table.
"""

from __future__ import annotations

import argparse
import os
import time
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

CASES = {
    "libx264": ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium"),
    "libx265": ("ultrafast", "superfast", "veryfast"),
    "libsvtav1": ("12", "10", "8"),
}


def load(path: Path, count: int) -> list[av.VideoFrame]:
    """Decode the clip's first frames as 1280×720 yuv420p."""
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.append(frame.reformat(1280, 720, "yuv420p", interpolation="LANCZOS"))
            if len(frames) == count:
                break
    return frames


def encode(frames: list[av.VideoFrame], encoder: str, preset: str, crf: int, threads: int) -> tuple[float, bytes, Any]:
    """Encode all frames. Returns milliseconds a frame, the stream, and the decoded frames."""
    context = av.CodecContext.create(encoder, "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = 1280, 720, "yuv420p"
    context.time_base, context.framerate, context.thread_count = Fraction(1, 25), Fraction(25), threads
    context.options = {"preset": preset, "crf": str(crf)}
    if encoder == "libx265":
        context.options["x265-params"] = "log-level=none"
    begun, packets = time.perf_counter(), []
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base = index, Fraction(1, 25)
        packets += context.encode(frame)
    packets += context.encode(None)
    seconds = time.perf_counter() - begun
    decoder = av.CodecContext.create({"libx264": "h264", "libx265": "hevc", "libsvtav1": "libdav1d"}[encoder], "r")
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]  # type: ignore[attr-defined]
    return 1000 * seconds / len(frames), b"".join(bytes(p) for p in packets), decoded


def psnr(before: list[Any], after: list[Any]) -> float:
    """Mean luma PSNR in dB."""
    values = []
    for a, b in zip(before, after, strict=True):
        luma = [np.asarray(memoryview(f.planes[0])).reshape(720, -1)[:, :1280].astype(np.float32) for f in (a, b)]
        values.append(10 * np.log10(255**2 / max(1e-9, float(np.square(luma[0] - luma[1]).mean()))))
    return float(np.mean(values))


def main() -> None:
    """Print the table: medians of three interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--crf", type=int, default=18)
    arguments = parser.parse_args()
    os.environ["SVT_LOG"] = "1"
    frames = load(arguments.clip, arguments.frames)
    cases = [(encoder, preset) for encoder, presets in CASES.items() for preset in presets]
    times: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    facts: dict[tuple[str, str], tuple[int, float]] = {}
    for _ in range(3):
        for case in cases:
            spent, data, decoded = encode(frames, *case, arguments.crf, arguments.threads)
            times[case].append(spent)
            facts[case] = len(data), psnr(frames, decoded)
    print(f"{len(frames)} frames, {os.cpu_count()} cores, {arguments.threads} threads, crf {arguments.crf}\n")
    print("| encoder | preset | ms a frame | kB | luma PSNR |\n|---|---|---|---|---|")
    for encoder, preset in cases:
        size, fidelity = facts[encoder, preset]
        print(f"| {encoder} | {preset} | {median(times[encoder, preset]):.1f} | {size // 1000} | {fidelity:.2f} |")


if __name__ == "__main__":
    main()
