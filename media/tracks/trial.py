"""Testing whether a muxer accepts a track, by writing a header to memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import av
from av.container import OutputContainer
from av.stream import Stream

MUXERS: Final = {"mp4": "mp4", "mov": "mov", "mkv": "matroska", "webm": "webm"}
"""Containers of results → libav's names."""


def trial_container(kind: str) -> OutputContainer:
    """An output container of a kind (mp4, mkv, …) in memory."""
    return av.open(io.BytesIO(), "w", format=MUXERS[kind])


def can_begin(kind: str, add: Callable[[OutputContainer], Stream]) -> bool:
    """Whether a container of a kind can be begun after `add` has added a track.

    Some muxers and encoders accept a track first, and refuse it when the header is written.
    """
    trial = trial_container(kind)
    try:
        add(trial)
        trial.start_encoding()
    except (ValueError, av.error.FFmpegError):
        return False
    with suppress(ValueError, av.error.FFmpegError):  # some muxers need a packet before they can end
        trial.close()
    return True
