"""Training batches from the packed cache: random crops, flips, time reversal.

A batch is a function of seed, rank and step only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.errors import ConfigError
from model.training import cache, degrade
from model.training.degrade import Frames
from model.training.recipe import BatchShape, SamplingRecipe


class Sampler:
    """Draw training batches.

    With `device`, each segment moves to the device at its first use, and stays. Without, files are mapped, and batches
    are on the CPU. Raises ConfigError if the cache lacks clips, photos, compressed versions, or segments large enough
    for a stage.
    """

    def __init__(self, folder: Path, config: SamplingRecipe, rank: int = 0, device: torch.device | None = None) -> None:
        self.config, self.rank, self.device = config, rank, device
        self._resident: dict[Path, Tensor] = {}
        clips, photos = cache.read(folder, "clips"), cache.read(folder, "photos")
        for kind, segments, share in (("clips", clips, 1 - config.photo_share), ("photos", photos, config.photo_share)):
            if share > 0 and not segments:
                raise ConfigError(f"the cache holds no {kind}, and photo_share is {config.photo_share}")
            if share > 0 and config.clean_share < 1 and not all(segment.uploads for segment in segments):
                raise ConfigError(f"the cache holds no compressed {kind}, and clean_share is {config.clean_share}")
            for stage in config.stages:
                if share > 0 and not any(_fits(segment, stage) for segment in segments):
                    raise ConfigError(f"the cache holds no {kind} of {_wanted(stage)}; a stage asks for them")
        self.sources = _by_source(clips), _by_source(photos)

    def batch(self, step: int, stage: BatchShape) -> tuple[Tensor, Tensor]:
        """Return LR and HR of one step: uint8 [B, T, p, p, 3] and [B, T, s p, s p, 3]."""
        rng = np.random.default_rng([self.config.seed, self.rank, step])
        pairs = [self._item(stage, rng) for _ in range(stage.batch)]
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    def _item(self, stage: BatchShape, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        sources = self.sources[int(rng.random() < self.config.photo_share)]
        segment = _pick(sources, stage, rng)
        clean = rng.random() < self.config.clean_share
        version = "bi" if clean else segment.uploads[int(rng.integers(len(segment.uploads)))]
        lr = segment.frames(version)
        t, h, w, _ = lr.shape
        start, p = int(rng.integers(t - stage.frames + 1)), stage.patch
        # Of two random places keep the more detailed: the network learns nothing from flat sky.
        places = [(int(rng.integers(h - p + 1)), int(rng.integers(w - p + 1))) for _ in range(2)]
        y, x = max(places, key=lambda place: _detail(lr[start, place[0] : place[0] + p, place[1] : place[1] + p]))
        times, scale = slice(start, start + stage.frames), self.config.network_config.scale
        low = self._cut(segment.files[version], times, y, x, p)
        high = self._cut(segment.files["hr"], times, y * scale, x * scale, p * scale)
        barred = clean and self.config.bars and rng.random() < self.config.bars
        if barred:
            high = _with_bar(high, rng)
        if barred or (clean and self.config.clean != "bi"):
            low = degrade.each_on_device(high, partial(degrade.CLEAN[self.config.clean], scale=scale))
        for axis in range(3):  # time, rows, columns
            if rng.random() < 0.5:
                low, high = low.flip(axis), high.flip(axis)
        if rng.random() < 0.5:
            low, high = low.transpose(1, 2), high.transpose(1, 2)
        return low, high

    def _cut(self, path: Path, times: slice, y: int, x: int, side: int) -> Tensor:
        """Return frames [T, side, side, 3] of a file, on the device of the sampler."""
        if self.device is None:
            return torch.from_numpy(np.load(path, mmap_mode="r")[times, y : y + side, x : x + side].copy())
        if path not in self._resident:
            self._resident[path] = torch.from_numpy(np.load(path)).to(self.device)
        return self._resident[path][times, y : y + side, x : x + side]

    def batches(self, start: int, stop: int, stage: Callable[[int], BatchShape]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of steps `start` to `stop` - 1. A thread prefetches three."""
        with ThreadPoolExecutor(1) as pool:
            pending: list[Future[tuple[Tensor, Tensor]]] = []
            for step in range(start, stop + 3):
                if step < stop:
                    pending.append(pool.submit(self.batch, step, stage(step)))
                if len(pending) > 3 or (step >= stop and pending):
                    yield pending.pop(0).result()


def to_model(frames: Tensor, device: torch.device) -> Tensor:
    """Convert uint8 [B, T, H, W, 3] to float [B, T, 3, H, W] in [0, 1]."""
    return frames.to(device).permute(0, 1, 4, 2, 3).float().div_(255)


def _by_source(segments: list[cache.Segment]) -> list[list[cache.Segment]]:
    """Group segments by source file, to sample long and short videos equally often."""
    groups: dict[str, list[cache.Segment]] = {}
    for segment in segments:
        groups.setdefault(segment.source, []).append(segment)
    return list(groups.values())


def _pick(sources: list[list[cache.Segment]], stage: BatchShape, rng: np.random.Generator) -> cache.Segment:
    for _ in range(100):
        group = sources[int(rng.integers(len(sources)))]
        segment = group[int(rng.integers(len(group)))]
        if _fits(segment, stage):
            return segment
    fitting = [segment for group in sources for segment in group if _fits(segment, stage)]  # rare: list them
    return fitting[int(rng.integers(len(fitting)))]


def _fits(segment: cache.Segment, stage: BatchShape) -> bool:
    t, h, w, _ = segment.shape
    return t >= stage.frames and h >= stage.patch and w >= stage.patch


def _wanted(stage: BatchShape) -> str:
    return f"{stage.frames} frames of {stage.patch} x {stage.patch} LR pixels"


def _with_bar(high: Tensor, rng: np.random.Generator) -> Tensor:
    """Cover the first rows or columns of HR frames [T, H, W, 3] with a dark bar: at most a third of the height."""
    high, thickness = high.clone(), int(rng.integers(1, high.shape[1] // 3 + 1))
    bar = high[:, :thickness] if rng.random() < 0.5 else high[:, :, :thickness]
    bar[:] = int(rng.integers(0, 17))  # 16: limited-range black shown as full range
    return high


def _detail(patch: Frames) -> float:
    green = patch[..., 1].astype(np.int16)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())
