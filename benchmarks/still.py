"""Gain and drift of routing on nearly still video: two synthetic clips through BasicVSR.

`still`: a photograph as a video of 1,000 frames with coding noise; PSNR of Y against the photograph.
`twos`: the photograph with a square that moves every second frame, as in animation "on twos".

python -m benchmarks.still PHOTO [--model NAME] [--frames N] [--threads N] [--json FILE]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.model import reduced
from benchmarks.report import machine, one_line, write_json
from benchmarks.stream import results, skip_ratio
from media.dataset import clip as read_clip
from media.dataset import h264
from model.engine.loading import load_model
from model.engine.upscaler import Frames, Upscaler
from model.quality import psnr_y

Picture = NDArray[np.uint8]

DENSE_FRAMES = 72
"""Frames of the dense passes before and after the routed pass; dense time is the same at every frame."""
NOISE, CRF = 1.5, 20
"""Standard deviation of the noise in levels, and CRF of the coding."""
EARLY = 50
"""Index of the frame to compare with the last frame."""


@dataclass(frozen=True)
class Pass:
    """One pass over a clip."""

    seconds: float
    """Per frame."""
    skip_ratio: float
    db: list[float]
    """PSNR of Y of each frame against the ground truth."""


@dataclass(frozen=True)
class StillRow:
    """A synthetic clip, dense and `balanced`: times per frame, PSNR of Y against the photograph."""

    clip: str
    model: str
    lr_size: str
    frames: int
    dense_ms: float
    ms_per_frame: float
    speedup: float
    skip_ratio: float
    psnr_y_early: float
    """At frame `EARLY`."""
    psnr_y_last: float
    psnr_y_least: float
    psnr_y_dense_early: float


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--model", default="basicvsr-reds")
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = load_model(
        args.model, weights_dir=args.weights, device=args.device, precision=args.precision, threads=args.threads
    )
    photo = read_clip(args.photo, 1)
    h, w = (side // 8 * 8 for side in photo.shape[1:3])  # an even LR size for 4:2:0
    low, high = reduced(photo[:, :h, :w])
    picture: Picture = low[0].astype(np.uint8, copy=False)
    truth = torch.from_numpy(high[0]).permute(2, 0, 1)
    facts = machine(model.device)
    print(one_line(facts))
    rows: list[StillRow] = []
    _run(model, truth, low.repeat(3, 0), "off")  # warm-up
    for name, frames in (("still", _still(picture, args.frames)), ("twos", _twos(picture, args.frames // 10))):
        dense = [_run(model, truth, frames[:DENSE_FRAMES], "off")]
        routed = _run(model, truth, frames, "balanced")
        dense.append(_run(model, truth, frames[:DENSE_FRAMES], "off"))
        once, early = sum(each.seconds for each in dense) / 2, min(EARLY, len(frames)) - 1
        rows.append(
            StillRow(
                name,
                args.model,
                f"{low.shape[2]}x{low.shape[1]}",
                len(frames),
                1000 * once,
                1000 * routed.seconds,
                once / routed.seconds,
                routed.skip_ratio,
                routed.db[early],
                routed.db[-1],
                min(routed.db),
                dense[0].db[early],
            )
        )
        print(
            f"{name} {low.shape[2]}x{low.shape[1]}, {len(frames)} frames: dense {1000 * once:.1f}, balanced "
            f"{1000 * routed.seconds:.1f} ms a frame, "
            f"{once / routed.seconds:.1f} times, {routed.skip_ratio:.0%} skipped"
        )
        if name == "still":
            print(
                f"  PSNR at frame {early + 1}: {routed.db[early]:.2f} dB, at the last: {routed.db[-1]:.2f} dB, "
                f"least {min(routed.db):.2f} dB; dense at frame {early + 1}: {dense[0].db[early]:.2f} dB"
            )
    if args.json:
        write_json(args.json, {"machine": facts, "rows": rows})


def _still(picture: Picture, count: int) -> Frames:
    random = np.random.default_rng(0)
    noisy = [picture + random.normal(0, NOISE, picture.shape) for _ in range(count)]
    return h264(np.clip(np.stack(noisy), 0, 255).astype(np.uint8), CRF)


def _twos(picture: Picture, count: int) -> Frames:
    h, w, _ = picture.shape
    side = min(h, w) // 5
    square = picture[-side:, -side:][::-1]
    frames = np.repeat(picture[None], count, 0)
    for i in range(count):
        at = i // 2
        y, x = at % (h - side), 5 * at % (w - side)
        frames[i, y : y + side, x : x + side] = square
    return h264(frames, CRF)


def _run(model: Upscaler, truth: torch.Tensor, frames: Frames, routing: str) -> Pass:
    seconds, reports, db = 0.0, [], []
    for result in results(model, frames, chunk=24, lookahead=4, routing=routing):
        seconds += result.seconds
        reports += result.reports
        db += [psnr_y(torch.from_numpy(frame).permute(2, 0, 1), truth) for frame in result.frames]
    return Pass(seconds / len(frames), skip_ratio(reports), db)


if __name__ == "__main__":
    main()
