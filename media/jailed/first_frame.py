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
from media.demux.opening import check_index
from media.demux.side_data import has_alpha_channel
from media.errors import NoFrames, UnusableVideo
from media.jailed.header_checks import ENCRYPTED

_ATTEMPTS: Final = 300
"""Packets to decode before the search gives up: from the start, and again from the first keyframe."""


class FirstFrame(NamedTuple):
    """The first frame of a stream, and facts of its packets."""

    frame: VideoFrame
    chroma_location: str
    has_alpha: bool
    """Whether the packets hold a second picture, of the alpha channel, which libav's decoders skip."""


def decode_first_frame(container: InputContainer, stream: VideoStream) -> FirstFrame:
    """Decode the first frame.

    Raises:
        NoFrames: neither the file's first packets nor the first packets from a keyframe on give a frame.
        UnusableVideo: the packets are encrypted.
        UnsupportedFile: an MP4 file ends inside its index.
    """
    stream.codec_context.thread_count = 1
    location, has_alpha = "", False
    for packet in _candidates(container, stream):
        if packet.has_sidedata("encryption_info"):
            raise UnusableVideo(ENCRYPTED)
        has_alpha = has_alpha or has_alpha_channel(packet)
        # Read the headers before the decoder, which may change the packet. They precede the first packet, or are in
        # keyframes.
        if packet.is_keyframe or not location:
            location = chroma_location(stream, packet)
        try:
            for frame in stream.decode(packet):
                return FirstFrame(frame, location, has_alpha)
        except av.error.FFmpegError:
            continue
    check_index(container)
    raise NoFrames("No frame of the video can be decoded; the file is corrupt or incomplete.")


def _candidates(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The first packets of the stream, then the first packets from a keyframe on.

    If a recording begins inside a long group of pictures, no frame before the first keyframe is decodable.
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
