"""Sizes of the pictures later in a file, found by a few samples before the work begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from media.demux.discontinuities import has_clock
from media.jailed.first_frame import readable_packets
from media.limits import Limits
from media.types import Canvas, VideoInfo

_PLACES: Final = Fraction(1, 2), Fraction(9, 10)
"""Samples, as parts of the duration."""
_PACKETS: Final = 300
"""Packets to read for the keyframe of one sample."""
_RECORDED: Final = ("vp8", "vp9")
"""Codecs of browsers' recordings, which begin small and grow with the connection."""


def with_largest_size(
    video: VideoInfo, container: InputContainer, stream: VideoStream, limits: Limits
) -> tuple[VideoInfo, list[str]]:
    """The video's facts with the size of the largest part, and a warning if the frame size changes.

    The samples are taken in recordings of broadcasts and browsers, and where the header and the first frame disagree.
    """
    recorded = stream.codec_context.codec.canonical_name in _RECORDED
    disagree = (stream.width, stream.height) != (video.width, video.height)
    if not (recorded or disagree or has_clock(container)):
        return video, []
    sizes = {(video.width, video.height): video.canvas}
    for canvas in _samples(container, stream, video):
        limits.check("max_pixels", canvas.width * canvas.height, f"the video ({canvas.width}×{canvas.height})")
        sizes.setdefault((canvas.width, canvas.height), canvas)
    if len(sizes) == 1:
        return video, []
    largest = max(sizes.values(), key=lambda canvas: canvas.width * canvas.height)
    if largest is not video.canvas:
        shape = largest.sample_aspect_ratio
        video = replace(video, width=largest.width, height=largest.height, sample_aspect_ratio=shape)
    names = ", ".join(f"{width}×{height}" for width, height in sizes)
    warning = f"The frame size changes ({names}); all frames are scaled to fit {largest.width}×{largest.height}."
    return video, [warning]


def _samples(container: InputContainer, stream: VideoStream, video: VideoInfo) -> Iterator[Canvas]:
    """Canvas of some pictures after the first one."""
    indexed = has_clock(container) or len(stream.index_entries) > 1
    duration = video.duration_seconds or float(Fraction(container.duration or 0, av.time_base))
    if not indexed or not duration or stream.time_base is None:
        packets = islice(readable_packets(container, stream), _PACKETS)
        yield from _keyframes(stream, packets, video)
        return
    for place in _PLACES:
        goal = (stream.start_time or 0) + round(place * Fraction(duration) / stream.time_base)
        try:
            container.seek(goal, stream=stream)
        except av.error.FFmpegError:
            return
        packets = islice(readable_packets(container, stream), _PACKETS)
        yield from islice(_keyframes(stream, packets, video), 1)


def _keyframes(stream: VideoStream, packets: Iterator[Packet[VideoStream]], video: VideoInfo) -> Iterator[Canvas]:
    """Canvas of each keyframe among some packets. Each keyframe is decoded alone: a decoder waits for many packets."""
    for packet in packets:
        if not packet.is_keyframe:
            continue
        try:
            stream.codec_context.flush_buffers()
            for frame in (*stream.decode(packet), *stream.decode(None)):
                same = (frame.width, frame.height) == (video.width, video.height)
                shape = stream.codec_context.sample_aspect_ratio or video.sample_aspect_ratio
                yield video.canvas if same else Canvas(frame.width, frame.height, shape)
        except av.error.FFmpegError:
            continue
