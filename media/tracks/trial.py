"""Testing whether a muxer accepts a track, by writing a file to memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import av
from av.container import OutputContainer
from av.packet import Packet
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
    return can_hold(kind, add, None)


def can_hold(kind: str, add: Callable[[OutputContainer], Stream], packet: Packet[Stream] | None) -> bool:
    """Whether a container of a kind can be begun after `add` has added a track, and ended after one packet.

    MP4 describes its tracks at the end of the file, and refuses some only then.

    Args:
        packet: the packet. None: the end is not tested, because some muxers need a packet before they can end.
    """
    trial = trial_container(kind)
    try:
        track = add(trial)
        trial.start_encoding()
        if packet is not None:
            packet.stream = track
            trial.mux_one(packet)
            trial.close()
    except (ValueError, av.error.FFmpegError):
        return False
    with suppress(ValueError, av.error.FFmpegError):
        trial.close()
    return True
