"""PSNR on the validation clips, to choose checkpoints by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from model import quality as metrics
from model.network.basicvsr import BasicVSR
from model.training import cache, degrade
from model.training.adapt_gates import GatedClip
from model.training.data import to_model
from model.training.prepare import each


def validate(network: BasicVSR | GatedClip, folder: Path, device: torch.device, clean: str = "bi") -> dict[str, float]:
    """Mean Y-PSNR over the packed validation clips, in dB: `psnr_bi` and `psnr_up0` (compressed); empty without clips.

    With another way to make `clean` LR that one's instead of `psnr_bi`.
    `network` is used as it is: on `device`, in its own type. Of one with gates also the share of cells that they skip.
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
    """The same of MATLAB's bicubic interpolation: what any network has to beat."""
    sums: dict[str, list[float]] = {}
    for segment in cache.read(folder, "val"):
        for version, low in _versions(segment, clean):
            lr = torch.from_numpy(low.copy()).permute(0, 3, 1, 2)
            frames = torch.stack([degrade.to_uint8(degrade.bicubic_up(frame)) for frame in lr])
            sums.setdefault(f"psnr_{version}", []).append(_clip_psnr(frames, segment))
    return {name: fmean(values) for name, values in sums.items()}


def _versions(segment: cache.Segment, clean: str) -> Iterator[tuple[str, cache.Frames]]:
    """The LR versions of a clip by name; the clean one is packed as `bi`, and any other made here."""
    for version in segment.versions:
        if version == "bi" != clean:
            yield clean, each(segment.frames("hr"), degrade.CLEAN[clean])
        else:
            yield version, segment.frames(version)


def _clip_psnr(frames: Tensor, segment: cache.Segment) -> float:
    hr = torch.from_numpy(segment.frames("hr").copy()).permute(0, 3, 1, 2)
    return fmean(min(metrics.psnr_y(a, b), metrics.MAX_DB) for a, b in zip(frames, hr, strict=True))
