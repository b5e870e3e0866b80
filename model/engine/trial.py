"""A trial of a network on a GPU: a few small frames, compared with the frames of the CPU in float32."""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import torch

from model.engine.chunk import ChunkResult, Frames
from model.errors import DeviceError
from model.quality import psnr

_SIZE: Final = (64, 64)
_FRAMES: Final = 2
_LEAST_DB: Final = 30.0
"""bfloat16 reaches 45 dB. A single NaN among the features blackens its surroundings in all later frames."""


class Computes(Protocol):
    """A network that upscales frames (`Upscaler`)."""

    def forward(self, frames: Frames, state: Any, *, lookahead: int, last: bool) -> ChunkResult:
        """Upscale frames."""


def check(tried: Computes, reference: Computes) -> None:
    """Raise DeviceError if a network computes other frames than its reference on the CPU, or features without value."""
    frames = _frames()
    result = tried.forward(frames, None, lookahead=0, last=False)
    feat = result.state.feat
    if feat is not None and not bool(feat.isfinite().all()):
        raise DeviceError("the network computes numbers that are not finite")
    expected = reference.forward(frames, None, lookahead=0, last=False)
    quality = psnr(torch.from_numpy(result.frames), torch.from_numpy(expected.frames))
    if quality < _LEAST_DB:
        raise DeviceError(f"the network computes wrong frames: {quality:.0f} dB against the CPU's frames")


def _frames() -> Frames:
    """Moving waves with grain: every feature of a network has something to do."""
    y, x, t = np.mgrid[0 : _SIZE[0], 0 : _SIZE[1], 0:_FRAMES]
    grain = np.random.default_rng(0).normal(0, 8, (*x.shape, 3))
    wave = (128 + 90 * np.sin((x + 2 * y + 3 * t) / 7))[..., None] + grain
    return np.ascontiguousarray(wave.clip(0, 255).astype(np.uint8).transpose(2, 0, 1, 3))
