"""Chroma sample location from the coded headers, for which PyAV has no accessor. Read from libav's header trace."""

from __future__ import annotations

import re
from typing import Final

import av
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream

_CODECS: Final = ("h264", "hevc", "av1")
_H26X: Final = ("left", "center", "topleft", "top", "bottomleft", "bottom")
_AV1: Final = {1: "left", 2: "topleft"}
_TRACE: Final = re.compile(r"(chroma_sample_loc_type_top_field|chroma_sample_position)\s+\S*\s*= (\d+)")


def chroma_location(stream: VideoStream, packet: Packet[VideoStream]) -> str:
    """Location of the chroma samples of 4:2:0 video: left, center, topleft, … or "unspecified".

    Changes libav's log level for a moment. Use only in a process with a single task.
    """
    if stream.codec_context.codec.canonical_name not in _CODECS:
        return "unspecified"
    found = _TRACE.search(_header_trace(stream, packet))
    if found is None:
        return "unspecified"
    code = int(found[2])
    if found[1] == "chroma_sample_position":
        return _AV1.get(code, "unspecified")
    return _H26X[code] if code < len(_H26X) else "unspecified"


def _header_trace(stream: VideoStream, packet: Packet[VideoStream]) -> str:
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture(local=True) as lines:
            copy = Packet(bytes(packet))  # the filter consumes its packet
            BitStreamFilterContext("trace_headers", stream).filter(copy)
    except av.error.FFmpegError:
        return ""
    finally:
        av.logging.set_level(None)
    return "".join(line[2] for line in lines)
