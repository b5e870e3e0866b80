"""Picture of crops: bicubic, models and ground truth side by side, one row a clip, titled with the PSNR of Y.

The crop is the square with the largest error of bicubic, not the best square of a model.

python -m benchmarks.pictures CLIPS --out FILE.png [--models NAME …] [--degrade HOW] [--scale N] [--frames N]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.quality import cropped, degraded
from media import dataset
from model import quality as metrics
from model.engine.loading import load_model
from model.engine.upscaler import Frames
from model.training import degrade

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the choice of a backend without a display


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["small", "basicvsr-reds"])
    parser.add_argument("--degrade", default="bi")
    parser.add_argument("--scale", type=int, default=4, help="enlargement of the models")
    parser.add_argument("--frames", type=int, default=7, help="frames of each clip; the picture shows the middle frame")
    parser.add_argument("--crop", type=int, default=112, help="side of the crop, in HR pixels")
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    args = parser.parse_args()
    models = [load_model(name, weights_dir=args.weights) for name in args.models]
    rows: list[tuple[str, list[tuple[str, Tensor]]]] = []
    for path in dataset.clips(args.clips):
        hr = cropped(dataset.clip(path, args.frames), args.scale)
        low, at = degraded(hr, args.degrade, args.scale), len(hr) // 2
        truth = _planar(hr[at])
        shown = [("bicubic", degrade.to_uint8(degrade.bicubic_up(_planar(low[at]), args.scale)))]
        for name, model in zip(args.models, models, strict=True):
            shown.append((name, _planar(model.forward(low, None, lookahead=0, last=True).frames[at])))
        y, x = _worst(shown[0][1], truth, args.crop)
        crops = [(name, frame[:, y : y + args.crop, x : x + args.crop]) for name, frame in shown]
        crops.append(("ground truth", truth[:, y : y + args.crop, x : x + args.crop]))
        rows.append((path.stem, crops))
    _draw(rows, args.out)


def _planar(frame: Frames) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)


def _worst(frame: Tensor, truth: Tensor, side: int) -> tuple[int, int]:
    """(top, left) of the square with the largest difference between `frame` and `truth`."""
    error = (metrics.luma(frame) - metrics.luma(truth)).square()
    step = 8
    sums = F.avg_pool2d(error[None], (min(side, error.shape[0]), min(side, error.shape[1])), step)[0]
    at = int(sums.argmax())
    return at // sums.shape[1] * step, at % sums.shape[1] * step


def _draw(rows: list[tuple[str, list[tuple[str, Tensor]]]], out: Path) -> None:
    columns = len(rows[0][1])
    figure, axes = plt.subplots(len(rows), columns, figsize=(2.6 * columns, 2.8 * len(rows)), squeeze=False)
    for line, (clip, crops) in zip(axes, rows, strict=True):
        truth = crops[-1][1]
        for axis, (name, crop) in zip(line, crops, strict=True):
            axis.imshow(crop.permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            same = name == "ground truth"
            axis.set_title(name if same else f"{name}  {metrics.psnr_y(crop, truth):.2f} dB", fontsize=9)
        line[0].set_ylabel(clip, fontsize=9)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
