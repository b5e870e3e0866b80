"""The frames of a chunk reach the encoder one by one, before the chunk is complete."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.engine.state import RecurrentState
from model.engine.upscaler import ChunkResult
from pipeline.feed import ChunkFeed, Dropped

FRAMES = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
RESULT = ChunkResult(FRAMES, RecurrentState("model", torch.zeros(0, 2, 2, 3)), [])


def test_a_frame_comes_out_before_the_next_is_put_in() -> None:
    feed = ChunkFeed()
    frames = feed.polled(0.01)
    for rgb in FRAMES[:2]:
        feed.put(rgb)
        assert np.array_equal(next(frames), rgb)  # type: ignore[arg-type]
    assert next(frames) is None, "nothing new"
    assert feed.waited > 0
    feed.finish(RESULT)
    rest = list(frames)
    assert len(rest) == 1, "each frame once"
    assert np.array_equal(rest[0], FRAMES[2])  # type: ignore[arg-type]
    assert feed.result is RESULT


def test_a_dropped_chunk_ends_with_an_error() -> None:
    feed = ChunkFeed()
    feed.put(FRAMES[0])
    feed.drop()
    frames = feed.polled(1)
    next(frames)
    with pytest.raises(Dropped):
        next(frames)
