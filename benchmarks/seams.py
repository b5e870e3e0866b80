"""What a warm-up before the seam of two segments gives, for a seam without a scene cut.

    python -m benchmarks.seams CLIP… [--model small] [--routing balanced] [--side 384] [--threads 1] [--json OUT]

The centre of each clip is reduced to a quarter and upscaled: once as a whole, and once from a fresh state some frames
before the seam on. The first eight frames behind the seam are compared with those of the whole clip (PSNR of Y), and
both with the original: the difference of the two is the loss of the seam.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.lookahead import Frames, middle, psnr, reduced
from benchmarks.report import machine, write_json
from model.engine.loading import load_model
from model.engine.upscaler import Upscaler, groups

_WARM_UPS: Final = (0, 4, 8, 16, 24)
_SEAM: Final = 48
_SEEN: Final = 8
"""Frames behind the seam."""
_CHUNK, _LOOKAHEAD = 24, 4


def main() -> None:
    """Print a row for each clip and warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--model", default="small")
    parser.add_argument("--weights-dir", type=Path, default=Path("data/weights"))
    parser.add_argument("--routing", default="balanced")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", type=int, default=384, help="side of the square in the centre, in pixels")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = load_model(args.model, weights_dir=args.weights_dir, device="cpu", threads=args.threads)
    print(f"{'clip':24}{'warm-up':>8}{'dB to whole':>13}{'loss, dB':>10}{'worst, dB':>11}")
    rows = [row for clip in args.clips for row in _rows(model, clip, args.routing, args.side)]
    if args.json:
        write_json(
            args.json, {"machine": machine(model.device), "model": args.model, "routing": args.routing, "rows": rows}
        )


def _rows(model: Upscaler, clip: Path, routing: str, side: int) -> list[dict[str, Any]]:
    truth = middle(clip, _SEAM + _CHUNK + _LOOKAHEAD, side)
    small, seen = reduced(truth), truth[_SEAM : _SEAM + _SEEN]
    whole = _behind(model, small, 0, routing)
    rows = []
    for count in _WARM_UPS:
        part = _behind(model, small, _SEAM - count, routing)
        losses = [psnr(w[None], t[None]) - psnr(p[None], t[None]) for w, p, t in zip(whole, part, seen, strict=True)]
        row = {
            "clip": clip.name,
            "warm_up": count,
            "psnr": round(psnr(part, whole), 2),
            "loss": round(float(np.mean(losses)), 4),
            "worst": round(max(losses), 4),
        }
        rows.append(row)
        print(
            f"{clip.name[:23]:24}{count:8}{row['psnr']:13.2f}{row['loss']:10.4f}{row['worst']:11.4f}",
            flush=True,
        )
    return rows


def _behind(model: Upscaler, small: Frames, start: int, routing: str) -> Frames:
    """The first frames behind the seam, from a fresh state at the frame `start` on."""
    warm_up, found, state = _SEAM - start, list[Frames](), None
    for group, _ in groups(small[start:], _CHUNK, _LOOKAHEAD - -warm_up % _CHUNK):
        result = model.forward(np.stack(group), state, lookahead=_LOOKAHEAD, last=False, routing=routing)
        state = result.state
        found.append(result.frames.astype(np.uint8))
    return np.concatenate(found)[warm_up : warm_up + _SEEN]


if __name__ == "__main__":
    main()
