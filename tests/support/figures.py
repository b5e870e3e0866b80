"""Figures for jobs that no worker has processed."""

from __future__ import annotations

from jobs.figures import ChunkFigures, Facts, MapShape

SHAPE = MapShape(columns=5, rows=3, cell=8, width=40, height=24)
FACTS = Facts(model="tiny", device="cpu", precision="float32", resumed=False, size=(160, 96), map=SHAPE)


def chunk(first: int, frames: int) -> ChunkFigures:
    return ChunkFigures(first=first, frames=frames, seconds=2.0, model_seconds=1.5, skip_ratio=0.25, reuse_ratio=0.125)


def maps(first: int, frames: int) -> list[bytes]:
    """A different map for each frame."""
    return [(number % 100 * 331 + 7).to_bytes(SHAPE.frame_bytes) for number in range(first, first + frames)]
