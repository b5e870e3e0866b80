"""A training cache of moving squares, which every test of training can pack in a moment."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from model.training import cache
from model.training.degrade import Frames, bi, each
from model.training.motion import moving_clip


def pack_squares(folder: Path, scale: int = 4) -> list[tuple[Frames, Frames]]:
    """Pack two clips to train on and one for validation into `folder`; returns LR and HR of all three."""
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    clips = []
    for _ in range(3):
        hr = moving_clip(photo, photo[::-1].copy(), 5, 96, rng)
        clips.append((each(hr, partial(bi, scale=scale)), hr))
    kinds: tuple[tuple[cache.Kind, list[tuple[Frames, Frames]]], ...] = (("photos", clips[:2]), ("val", clips[2:]))
    for kind, packed in kinds:
        with cache.source(folder, kind, "squares") as write:
            for number, (lr, hr) in enumerate(packed):
                write(number, hr, {"bi": lr})
    return clips


def run_config(top: str = "", *, steps: int, batch: int = 1, frames: int = 2, scale: int = 4) -> str:
    """A configuration in TOML of a tiny run over packed squares; `top` are more lines for its beginning."""
    return f"""
photo_share = 1.0
precision = "fp32"
threads = 1
{top}
[network]
channels = 8
blocks = 1
[data]
scale = {scale}
photos = ["photos"]
[[stages]]
steps = {steps}
batch = {batch}
frames = {frames}
patch = 16
"""
