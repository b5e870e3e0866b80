"""The input of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jobs.schema import JobOptions
from media.limits import DEFAULT_LIMITS, Limits
from media.types import MediaInfo
from pipeline.checkpoint import Identity
from pipeline.parts import Part


@dataclass(frozen=True)
class UpscaleTask:
    """A video to upscale."""

    source: Path
    folder: Path
    """Working folder. The folder exists, belongs to the task alone, and may hold a checkpoint."""
    options: JobOptions
    limits: Limits = DEFAULT_LIMITS
    chunk: int | None = None
    """Frames per chunk, instead of the options' chunk if the memory is too small for the latter."""
    max_model_bytes: int = 0
    """Maximum memory of a chunk in the network; 0: a part of the free memory."""
    encoder: str = "software"
    """device, software, nvenc, vaapi or auto (SKIPVSR_ENCODER)."""
    encoder_threads: int | None = None
    """Threads of the encoder; by default as many as suit this machine."""
    part: Part | None = None
    """The part of the video to compute, without the other tracks; None: the whole video."""
    identity: Identity | None = None
    """The identity that this run must share with the runs of the other parts."""
    natural: int | None = None
    """Enlargement of a result without a wanted size; None: that of the model."""
    info: MediaInfo | None = None
    """What a probe with the options found in the source, if the source has been probed."""

    @property
    def frames_per_chunk(self) -> int:
        """Number of frames in a chunk."""
        return self.chunk or self.options.chunk
