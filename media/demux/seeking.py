"""Exact seeking: decoding from a keyframe gives the same frames as decoding from the start, or raises InexactSeek."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

INDEXED: Final = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""Containers with an index of keyframes by timestamp. In other containers, libav searches by byte position."""
_ATTEMPTS: Final = 4


class InexactSeek(Exception):
    """Decoding must begin at the start of the file."""


def seek_keyframe(container: InputContainer, stream: VideoStream, goal: int) -> Packet[VideoStream]:
    """Seek to the last keyframe with a pts of at most `goal`. Returns its packet, which is consumed.

    Raises:
        InexactSeek: no keyframe was found with certainty.
    """
    if container.format.name not in INDEXED:
        raise InexactSeek
    target = goal
    for _ in range(_ATTEMPTS):
        packet = _first_packet_after_seek(container, stream, target)
        if packet is None or packet.pts is None or not packet.is_keyframe:
            raise InexactSeek
        if packet.pts <= goal:
            return packet
        # The index can hold decoding timestamps, which are lower than the presentation timestamps.
        target = min(target, packet.pts if packet.dts is None else packet.dts) - 1
    raise InexactSeek


def _first_packet_after_seek(container: InputContainer, stream: VideoStream, target: int) -> Packet[VideoStream] | None:
    try:
        container.seek(target, stream=stream)
        return next((packet for packet in container.demux(stream) if packet.size), None)
    except av.error.FFmpegError as error:
        raise InexactSeek from error


def frames_up_to(goal: int, frames: Iterator[VideoFrame], *, keyframe: int) -> Iterator[VideoFrame]:
    """Yield decoded frames from the frame at pts `keyframe` to the frame at pts `goal`, both included.

    Leading frames of an open group of pictures precede the keyframe and refer to missing frames. They are dropped.

    Raises:
        InexactSeek: decoding from the start would give other frames.
    """
    for frame in frames:
        # A deinterlacer that starts here has not seen the previous fields.
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
