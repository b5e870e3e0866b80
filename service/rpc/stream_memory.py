"""Memory of all live streams together: an upper estimate for each stream, and for their sum."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Self

from model.engine.budget import needed_bytes
from model.engine.upscaler import Upscaler
from service.rpc.stream_config import StreamConfig

MAX_SNAPSHOTS: Final = 16
"""Most points from which a stream can resume."""
MAX_SNAPSHOT_BYTES: Final = 256 * 1024**2
"""Most memory of these points. The newest stays in any case."""
_WRITING: Final = 2
"""Copies of an upscaled frame while grpc sends the frame."""


@dataclass(frozen=True)
class StreamCost:
    """Memory of a stream in bytes."""

    held: int
    """Frames in flight, and the states from which the stream can resume."""
    computing: int = 0
    """In addition, while the network computes a chunk of the stream."""
    batch: int = 1
    """Maximum number of streams that the network computes at the same time."""

    @classmethod
    def of(cls, model: Upscaler, config: StreamConfig, *, in_flight: int, batch: int) -> Self:
        """Estimate the memory of a stream.

        Args:
            model: the stream's network.
            config: the stream's config, with the length of its chunks.
            in_flight: maximum number of frames without a written answer.
            batch: maximum number of streams in a batch of this size.
        """
        pixels = config.source.width * config.source.height
        source, target = 3, 3 * model.scale**2
        state = (config.lookahead + 2) * source + model.config.channels * model.dtype.itemsize + target
        snapshots = 1
        if config.resumable:
            snapshots = min(MAX_SNAPSHOTS, max(1, MAX_SNAPSHOT_BYTES // (pixels * state)))
        held = (in_flight + _WRITING) * (source + target) + (1 + snapshots) * state
        return cls(pixels * held, needed_bytes(model, pixels, config.chunk + config.lookahead), batch)


def total(costs: Collection[StreamCost]) -> int:
    """Memory of several streams in bytes. The network computes one batch at a time."""
    computing = sum(cost.computing for cost in costs)
    largest_batch = max((cost.computing * min(cost.batch, len(costs)) for cost in costs), default=0)
    return sum(cost.held for cost in costs) + min(computing, largest_batch)
