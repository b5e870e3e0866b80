"""What only the coded headers say: where chroma samples sit. PyAV has no name for it, but libav's trace does."""

from __future__ import annotations

import re
from typing import Final

import av
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream

_H26X: Final = ("left", "center", "topleft", "top", "bottomleft", "bottom")
_AV1: Final = {1: "left", 2: "topleft"}
_TRACE = re.compile(r"(chroma_sample_loc_type_top_field|chroma_sample_position)\s+\S*\s*= (\d+)")


def chroma_location(stream: VideoStream, packet: Packet[VideoStream]) -> str:
    """Where the chroma samples of 4:2:0 video sit: left, center, topleft, …; "unspecified" where nothing says so.

    Reads libav's trace of the headers, so it sets libav's log level for a moment: only for a process that does
    nothing else.
    """
    if stream.codec_context.codec.canonical_name not in ("h264", "hevc", "av1"):
        return "unspecified"
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture(local=True) as lines:
            try:
                copy = Packet(bytes(packet))  # the filter takes what it is given
                BitStreamFilterContext("trace_headers", stream).filter(copy)
            except av.error.FFmpegError:
                return "unspecified"
    finally:
        av.logging.set_level(None)
    found = _TRACE.search("".join(line[2] for line in lines))
    if found is None:
        return "unspecified"
    code = int(found[2])
    if found[1] == "chroma_sample_position":
        return _AV1.get(code, "unspecified")
    return _H26X[code] if code < len(_H26X) else "unspecified"
