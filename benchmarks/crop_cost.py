"""What a crop costs on this machine, in pixels of dense work: the numbers of `model.mask.crop_cost`.

Chunks run by made-up plans: the whole frame, one crop a frame of several sizes, or several equal crops. Times are the
computing time of one thread. What a frame takes beyond the pixels of its crops (halo included) is overhead. That of
the first crop includes the flow around the crop, and copies of features and HR pixels.

python -m benchmarks.crop_cost [--model NAME] [--precision NAME] [--size 320x180] [--rounds N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.report import show
from model.engine.execute import normalised, run_chunk
from model.engine.loading import load_model
from model.engine.upscaler import Upscaler
from model.mask.changes import tiles_of
from model.mask.crop_cost import crop_overhead
from model.mask.plan import ChunkPlan
from model.mask.rectangles import Rectangle
from model.network.folding import fold_frames

FRAMES = 3
SIDES = (16, 24, 32, 48, 64, 96)
"""Sides of the crops in feature pixels."""
MANY = (24, 4)
"""Side and number of the crops of a frame with several crops."""
HALO = 2

Rectangles = tuple[Rectangle, ...]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--size", default="320x180", metavar="WxH", help="of the frames (default: 320x180)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    model = load_model(args.model, weights_dir=args.weights, device="cpu", precision=args.precision, threads=1)
    torch.manual_seed(0)
    stored = torch.randint(0, 256, (FRAMES, height, width, 3), dtype=torch.uint8)
    h, w = fold_frames(stored, model.network.fold).shape[1:3]
    whole, plans = (Rectangle(0, 0, h, w),), [_in_a_row(side, 1, h, w) for side in SIDES]
    several = _in_a_row(*MANY, h, w)
    seconds = _measured(model, stored, [whole, *plans, several], args.rounds)
    pixel = seconds[0] / (h * w)
    rows = [
        [
            _named(rectangles),
            f"{1000 * took:.2f}",
            f"{took / pixel:.0f}",
            f"{took / pixel - _area(rectangles, h, w):.0f}",
        ]
        for rectangles, took in zip([whole, *plans, several], seconds, strict=True)
    ]
    console = Console(width=100)
    show(console, ["crops", "ms a frame", "pixels of dense work", "beyond their own pixels"], rows)
    alone = next(took for side, took in zip(SIDES, seconds[1:], strict=False) if side == MANY[0])
    one_more = (seconds[-1] - alone) / (MANY[1] - 1) / pixel - _area(several[:1], h, w)
    console.print(
        f"one more crop: {one_more:.0f} pixels; in the table: {crop_overhead(model.config, model.device, model.dtype)}"
    )


def _in_a_row(side: int, count: int, h: int, w: int) -> Rectangles:
    """Return `count` squares side by side, with 8 pixels between them, in a frame of `h` x `w` feature pixels."""
    step = side + 8
    return tuple(Rectangle(8, i * step + 8, min(8 + side, h), min(i * step + 8 + side, w)) for i in range(count))


def _measured(model: Upscaler, stored: Tensor, plans: Sequence[Rectangles], rounds: int) -> list[float]:
    """Return the seconds of a frame by each plan: median over rounds in turns."""
    taken: list[list[float]] = [[] for _ in plans]
    for _ in range(rounds + 1):
        for times, rectangles in zip(taken, plans, strict=True):
            times.append(_seconds(model, stored, rectangles))
    return [median(times[1:]) for times in taken]


@torch.inference_mode()
def _seconds(model: Upscaler, stored: Tensor, rectangles: Rectangles) -> float:
    folded = fold_frames(stored, model.network.fold)
    plan = ChunkPlan([rectangles] * FRAMES, [rectangles] * FRAMES, folded[-1], tiles_of(*folded.shape[1:3]), HALO)
    lr = [normalised(frame) for frame in folded]
    begun = time.thread_time()
    run_chunk(model.network, lr, plan, [], stored.dtype)
    return (time.thread_time() - begun) / FRAMES


def _area(rectangles: Rectangles, h: int, w: int) -> int:
    return sum(rectangle.grown(HALO, h, w).area for rectangle in rectangles)


def _named(rectangles: Rectangles) -> str:
    first = rectangles[0]
    return f"{len(rectangles)} of {first.width}x{first.height}"


if __name__ == "__main__":
    main()
