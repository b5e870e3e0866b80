"""Compute PSNR on the validation clips, for choosing checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from model import quality
from model.network.basicvsr import BasicVSR
from model.training import cache, degrade
from model.training.adapt_gates import GatedClip
from model.training.data import to_model


def validate(network: BasicVSR | GatedClip, folder: Path, device: torch.device, clean: str = "bi") -> dict[str, float]:
    """Return the mean Y-PSNR over the packed validation clips in dB: `psnr_<clean>` and `psnr_up0` (compressed).

    `clean` names the downscaling of the clean clips. `network` stays on `device` in its number format. For a network
    with gates, `skipped_*` is the share of skipped cells. Empty without validation clips.
    """
    sums: dict[str, list[float]] = {}
    network.eval()
    with torch.inference_mode():
        for segment in cache.read(folder, "val"):
            for version, low in _versions(segment, clean):
                lr = to_model(torch.from_numpy(low[None].copy()), device)
                frames = degrade.to_uint8(network(lr)[0].float().cpu() * 255)
                sums.setdefault(f"psnr_{version}", []).append(_clip_psnr(frames, segment))
                if isinstance(network, GatedClip):
                    share = fmean(float(skip.float().mean()) for skip in network.skipped)
                    sums.setdefault(f"skipped_{version}", []).append(share)
    return {name: fmean(values) for name, values in sums.items()}


def bicubic(folder: Path, clean: str = "bi") -> dict[str, float]:
    """Return the same PSNR for MATLAB's bicubic interpolation, the baseline of every network."""
    sums: dict[str, list[float]] = {}
    for segment in cache.read(folder, "val"):
        for version, low in _versions(segment, clean):
            lr = torch.from_numpy(low.copy()).permute(0, 3, 1, 2)
            frames = torch.stack([degrade.to_uint8(degrade.bicubic_up(frame, segment.scale)) for frame in lr])
            sums.setdefault(f"psnr_{version}", []).append(_clip_psnr(frames, segment))
    return {name: fmean(values) for name, values in sums.items()}


def _versions(segment: cache.Segment, clean: str) -> Iterator[tuple[str, cache.Frames]]:
    """Yield the LR versions of a clip by name. The cache holds the clean version `bi`; others are computed here."""
    for version in segment.versions:
        if version == "bi" != clean:
            yield clean, degrade.each(segment.frames("hr"), partial(degrade.CLEAN[clean], scale=segment.scale))
        else:
            yield version, segment.frames(version)


def _clip_psnr(frames: Tensor, segment: cache.Segment) -> float:
    hr = torch.from_numpy(segment.frames("hr").copy()).permute(0, 3, 1, 2)
    return fmean(min(quality.psnr_y(a, b), quality.MAX_DB) for a, b in zip(frames, hr, strict=True))
