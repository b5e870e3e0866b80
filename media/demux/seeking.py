"""Starting to decode in the middle, so that what comes is what reading from the start gives; else it says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_INDEXED: Final = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""Containers whose keyframes are known by their times; others are searched by bytes, or have no times of their own."""
_ATTEMPTS: Final = 4


class InexactSeek(Exception):
    """Decoding has to begin at the start."""


def seek(container: InputContainer, stream: VideoStream, goal: int) -> Packet[VideoStream]:
    """Go to the last keyframe that is shown at `goal` or before; its packet, which is taken from the container.

    Raises:
        InexactSeek: there is none that is surely it.
    """
    if container.format.name not in _INDEXED:
        raise InexactSeek
    target = goal
    for _ in range(_ATTEMPTS):
        try:
            container.seek(target, stream=stream)
            packet = next((packet for packet in container.demux(stream) if packet.size), None)
        except av.error.FFmpegError as error:
            raise InexactSeek from error
        if packet is None or packet.pts is None or not packet.is_keyframe:
            raise InexactSeek
        if packet.pts <= goal:
            return packet
        # Indexes may be by decoding time, which is before the time at which a frame is shown.
        target = min(target, packet.pts if packet.dts is None else packet.dts) - 1
    raise InexactSeek


def skip(frames: Iterator[VideoFrame], keyframe: int, goal: int) -> Iterator[VideoFrame]:
    """Take decoded frames from the keyframe shown at `keyframe` up to and including the one shown at `goal`.

    Leading frames of an open group, which refer to what was not decoded, are shown before the keyframe and dropped.

    Raises:
        InexactSeek: something is not as a reader from the start would see it.
    """
    for frame in frames:
        # A deinterlacer that starts here knows nothing of the fields before.
        if frame.pts is None or frame.interlaced_frame:
            raise InexactSeek
        if frame.pts < keyframe:
            continue
        if frame.is_corrupt or frame.pts > goal:
            raise InexactSeek
        yield frame
        if frame.pts == goal:
            return
    raise InexactSeek
