"""Gain of look-ahead in a live stream: PSNR with chunks of one frame and 0, 1, 2, … frames of delay.

    python -m benchmarks.lookahead CLIP… [--model small] [--frames 20] [--side 256] [--threads 1]

The centre of each clip is reduced to a quarter (bicubic, antialiased) and upscaled. The table holds the PSNR of Y
against the original, in dB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.stream import results
from media.reader import VideoReader
from model.engine.loading import load_model
from model.engine.upscaler import Upscaler

_LOOKAHEADS = (0, 1, 2, 4, 8)
_LUMA = np.array([65.481, 128.553, 24.966]) / 255
Frames = NDArray[np.uint8]


def main() -> None:
    """Print a row for each clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--model", default="small")
    parser.add_argument("--weights-dir", type=Path, default=Path("data/weights"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--side", type=int, default=256, help="side of the square in the centre, in pixels")
    args = parser.parse_args()
    model = load_model(args.model, weights_dir=args.weights_dir, device=args.device, threads=args.threads)
    print(f"{'clip':24}" + "".join(f"{f'L={count}':>8}" for count in _LOOKAHEADS) + f"{'whole':>8}")
    for clip in args.clips:
        truth = middle(clip, args.frames, args.side)
        small = reduced(truth)
        values = [psnr(_upscaled(model, small, 1, count), truth) for count in _LOOKAHEADS]
        values.append(psnr(_upscaled(model, small, len(small), 0), truth))
        print(f"{clip.name[:23]:24}" + "".join(f"{value:8.2f}" for value in values), flush=True)


def middle(clip: Path, count: int, side: int) -> Frames:
    """The centre of the first frames of a clip; sides are multiples of four."""
    frames: list[Frames] = []
    with VideoReader(clip) as reader:
        for frame in reader:
            height, width = (min(side, length // 4 * 4) for length in frame.rgb.shape[:2])
            top, left = (frame.rgb.shape[0] - height) // 2, (frame.rgb.shape[1] - width) // 2
            frames.append(frame.rgb[top : top + height, left : left + width].astype(np.uint8))
            if len(frames) == count:
                break
    return np.stack(frames)


def reduced(frames: Frames) -> Frames:
    """Frames of a quarter of the size."""
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    small = F.interpolate(tensor, scale_factor=0.25, mode="bicubic", antialias=True)
    reduced: Frames = small.permute(0, 2, 3, 1).round().clamp(0, 255).byte().contiguous().numpy()
    return reduced


def _upscaled(model: Upscaler, frames: Frames, chunk: int, lookahead: int) -> Frames:
    parts = [result.frames for result in results(model, frames, chunk=chunk, lookahead=lookahead)]
    return np.concatenate(parts).astype(np.uint8)


def psnr(frames: Frames, truth: Frames) -> float:
    """Mean PSNR of Y over the frames, at most 100 dB."""
    errors = ((frames.astype(float) - truth) @ _LUMA) ** 2
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors.mean((1, 2)), 255**2 * 1e-10))))


if __name__ == "__main__":
    main()
