"""Quality of a model on clips, with the metrics of the papers, and with time and skip ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.stream import results, skip_ratio
from media import dataset
from model import quality as metrics
from model.engine.upscaler import Frames, Upscaler
from model.routing import RoutingReport
from model.training import degrade

_SMALLEST: Final = 12
"""Fewest HR rows and columns: the window of SSIM has 11, and sizes are multiples of the scale."""
_QUALITIES: Final = {"h264": (0, 51), **dict.fromkeys(dataset.MPEG, (1, 31))}
"""Range of the quality parameter of each codec."""
CHUNK, LOOKAHEAD = 24, 4
"""Frames per chunk and of look-ahead: the defaults of a job."""


@dataclass(frozen=True)
class Quality:
    """Figures of one clip: means over uncropped frames; `speedup` is dense time divided by this time."""

    clip: str
    model: str
    routing: str
    frames: int
    psnr_y: float
    psnr_rgb: float
    ssim_y: float
    bicubic_psnr_y: float
    flicker: float
    """Mean absolute error of the difference between neighbouring frames, in levels of Y."""
    ms_per_frame: float
    skip_ratio: float
    speedup: float


def degraded(hr: Frames, how: str, scale: int = degrade.SCALE) -> Frames:
    """LR frames [T, H / scale, W / scale, 3] of ground truth, by `bi`, `bd`, or BI and a codec (`h264:CRF`).

    Raises ValueError for another `how`.
    """
    name, _, quality = how.partition(":")
    if how in degrade.CLEAN:
        return _each(hr, partial(degrade.CLEAN[how], scale=scale))
    least, most = _QUALITIES.get(name, (0, -1))
    if not quality.isdecimal() or not least <= int(quality) <= most:
        raise ValueError(
            f"--degrade {how}: must be bi, bd, h264:CRF with a CRF of 0 to 51, mpeg4:Q or mpeg2:Q with a Q of 1 to 31"
        )
    lr = _each(hr, partial(degrade.bi, scale=scale)).astype(np.uint8)
    return dataset.h264(lr, int(quality), "medium") if name == "h264" else dataset.mpeg(lr, name, int(quality))


def cropped(hr: Frames, scale: int = degrade.SCALE) -> Frames:
    """Ground truth [T, H, W, 3] without the last rows and columns that make H or W no multiple of the scale."""
    h, w = (side // scale * scale for side in hr.shape[1:3])
    return cast(Frames, np.ascontiguousarray(hr[:, :h, :w]))


def evaluate(
    upscaler: Upscaler, gt: Path, lr: Path | None, how: str, routing: str, frames: int | None, scale: int | None = None
) -> Iterator[Quality]:
    """Figures of each clip in the folder `gt`, with LR clips from the folder `lr`, or made by `how`.

    `frames` limits the frames of a clip. `scale` is the enlargement, by default that of the model; output of another
    size is resized as in a job. Raises ValueError for unusable clips, and ModelError.
    """
    scale = scale or upscaler.scale
    for path in dataset.clips(gt):
        whole = dataset.clip(path, frames)
        if min(whole.shape[1:3]) < _SMALLEST:
            raise ValueError(f"{path.name}: {_size(whole)} is too small; the least is {_SMALLEST}x{_SMALLEST}")
        hr = cropped(whole, scale)
        low = degraded(hr, how, scale) if lr is None else dataset.clip(_same_name(path, lr), frames)
        if (low.shape[0], low.shape[1] * scale, low.shape[2] * scale) != hr.shape[:3]:
            raise ValueError(f"{path.name}: LR of {_size(low)} is not 1/{scale} of the ground truth, {_size(hr)}")
        yield score(upscaler, _name(path), hr, low, routing)


def score(upscaler: Upscaler, name: str, hr: Frames, lr: Frames, routing: str) -> Quality:
    """Upscale `lr` [T, h, w, 3] chunk by chunk, and compare the result, resized if need be, with `hr` [T, H, W, 3]."""
    for each in dict.fromkeys(["off", routing]):  # warm-up
        upscaler.forward(lr[:3], None, lookahead=LOOKAHEAD, last=True, routing=each)
    dense_ms, _, dense = _upscale(upscaler, lr, "off")
    ms, skipped, frames = (dense_ms, 0.0, dense) if routing == "off" else _upscale(upscaler, lr, routing)
    out, gt, low = _resized(_planar(frames), hr.shape), _planar(hr), _planar(lr)
    pairs = list(zip(out, gt, strict=True))
    bicubic = [degrade.to_uint8(degrade.resize(frame, *hr.shape[1:3])) for frame in low]
    changes = [metrics.flicker(out[i - 1], out[i], gt[i - 1], gt[i]) for i in range(1, len(gt))]
    return Quality(
        clip=name,
        model=upscaler.name,
        routing=routing,
        frames=len(gt),
        psnr_y=fmean(min(metrics.psnr_y(a, b), metrics.MAX_DB) for a, b in pairs),
        psnr_rgb=fmean(min(metrics.psnr(a, b), metrics.MAX_DB) for a, b in pairs),
        ssim_y=fmean(metrics.ssim_y(a, b) for a, b in pairs),
        bicubic_psnr_y=fmean(min(metrics.psnr_y(a, b), metrics.MAX_DB) for a, b in zip(bicubic, gt, strict=True)),
        flicker=fmean(changes) if changes else 0.0,
        ms_per_frame=ms,
        skip_ratio=skipped,
        speedup=dense_ms / ms,
    )


def _name(path: Path) -> str:
    """Name of a clip: the name of its folder, or of its file without the suffix."""
    return path.name if path.is_dir() else path.stem


def _same_name(path: Path, folder: Path) -> Path:
    found = [p for p in folder.iterdir() if _name(p) == _name(path)]
    if len(found) != 1:
        number = "several clips" if found else "no clip"
        raise ValueError(f"{folder}: holds {number} named {_name(path)}")
    return found[0]


def _size(frames: Frames) -> str:
    return f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]}"


def _upscale(upscaler: Upscaler, lr: Frames, routing: str) -> tuple[float, float, Frames]:
    """(ms per frame, skip ratio, HR frames) of a clip as one stream."""
    done: list[Frames] = []
    reports: list[RoutingReport] = []
    for result in results(upscaler, lr, chunk=CHUNK, lookahead=LOOKAHEAD, routing=routing):
        done.append(result.frames)
        reports += result.reports
    ms = 1000 * fmean(r.seconds for r in reports)
    frames: Frames = np.concatenate(done).astype(np.uint8, copy=False)
    return ms, skip_ratio(reports), frames


def _resized(frames: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`frames` [T, 3, H, W] in the size of `shape` [T, H', W', 3], by antialiased bicubic interpolation."""
    if frames.shape[-2:] == shape[1:3]:
        return frames
    return torch.stack([degrade.to_uint8(degrade.resize(frame, *shape[1:3])) for frame in frames])


def _planar(frames: Frames) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)


def _each(frames: Frames, how: Callable[[Tensor], Tensor]) -> Frames:
    """`how` of each frame; `how` takes and gives float [3, H, W]."""
    return np.stack([degrade.to_uint8(how(x)).permute(1, 2, 0).numpy() for x in _planar(frames)])
