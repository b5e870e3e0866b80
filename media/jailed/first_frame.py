"""Finding and decoding the first frame of a video stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.demux.bitstream import chroma_location
from media.errors import UnusableVideo
from media.jailed.header_checks import ENCRYPTED

_ATTEMPTS: Final = 300
"""Packets to decode before the search gives up: from the start, and again from the first keyframe."""
_ALPHA_ADDITION: Final = (1).to_bytes(8, "big")


class FirstFrame(NamedTuple):
    """The first frame of a stream, and what its packets say."""

    frame: VideoFrame
    chroma_location: str
    has_alpha: bool
    """Whether the packets hold a second picture, of the alpha channel, which libav's decoders skip."""


def decode_first_frame(container: InputContainer, stream: VideoStream) -> FirstFrame:
    """Decode the first frame.

    Raises:
        UnusableVideo: neither the file's first packets nor the first packets from a keyframe on give a frame, or the
            packets are encrypted.
    """
    stream.codec_context.thread_count = 1
    location, has_alpha = "", False
    for packet in _candidates(container, stream):
        if packet.has_sidedata("encryption_info"):
            raise UnusableVideo(ENCRYPTED)
        has_alpha = has_alpha or _has_alpha(packet)
        # Read the headers before the decoder, which may change the packet. They precede the first packet, or are in
        # keyframes.
        if packet.is_keyframe or not location:
            location = chroma_location(stream, packet)
        try:
            for frame in stream.decode(packet):
                return FirstFrame(frame, location, has_alpha)
        except av.error.FFmpegError:
            continue
    raise UnusableVideo("No frame of the video can be decoded; the file is corrupt or incomplete.")


def _has_alpha(packet: Packet[VideoStream]) -> bool:
    """Whether the packet has WebM's alpha channel: a BlockAdditional with the number 1.

    The track's AlphaMode only allows an alpha channel. Browsers' recordings have the mode, but no alpha channel.
    """
    if packet.stream.metadata.get("alpha_mode") != "1" or not packet.has_sidedata("matroska_block_additional"):
        return False
    return bytes(packet.get_sidedata("matroska_block_additional"))[:8] == _ALPHA_ADDITION


def _candidates(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The first packets of the stream, then the first packets from a keyframe on.

    A recording that begins inside a long group of pictures is not decodable before its first keyframe.
    """
    left, keyframe_seen = _ATTEMPTS, False
    for packet in readable_packets(container, stream):
        if packet.is_keyframe and not keyframe_seen:
            left, keyframe_seen = _ATTEMPTS, True
        if left > 0:
            left -= 1
            yield packet
        elif keyframe_seen:
            return


def readable_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Demux a stream up to the first error."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        return
