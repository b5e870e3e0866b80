"""VobSub subtitles: palette, and size of the plane of their pictures. Each container stores them in its own way.

Matroska and libav have a header of text, MP4 a size in the track header and a palette in the sample entry. libav's MP4
muxer writes the size of a DVD, 720×480, and the text in place of the palette.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from av.container import InputContainer
from av.stream import Stream

from media.boxes import Box, read_outer_box

CODEC: Final = "dvd_subtitle"
_SIZE: Final = re.compile(rb"size:\s*(\d+)x(\d+)")
_PALETTE: Final = re.compile(rb"palette:\s*((?:[0-9a-fA-F]{6}[,\s]*){16})")
_DVD: Final = (720, 480)


@dataclass(frozen=True)
class Mp4Description:
    """A track's description in MP4."""

    plane: tuple[int, int]
    """Width and height."""
    sample_entry: Box


def header(source: InputContainer, stream: Stream) -> bytes:
    """The header of text for a result's track, with the size."""
    text = stream.codec_context.extradata or b""
    if _SIZE.search(text) or (track := _mp4_track(source, stream)) is None:
        return text
    return b"size: %dx%d\n" % _plane(track) + text


def mp4_description(source: InputContainer, stream: Stream) -> Mp4Description | None:
    """The description for an MP4 result. None: the palette is unknown."""
    if (track := _mp4_track(source, stream)) is not None:
        entries = track.find(b"mdia", b"minf", b"stbl", b"stsd")
        return Mp4Description(_plane(track), entries.inner[0]) if entries and entries.inner else None
    text = stream.codec_context.extradata or b""
    size, palette = _SIZE.search(text), _PALETTE.search(text)
    if palette is None:
        return None
    colors = (int(color, 16) for color in re.findall(rb"[0-9a-fA-F]{6}", palette[1]))
    plane = (int(size[1]), int(size[2])) if size else _DVD
    return Mp4Description(plane, _sample_entry(b"".join(map(_as_ycrcb, colors))))


def _mp4_track(source: InputContainer, stream: Stream) -> Box | None:
    """The box of the stream's track. None: the source is not MP4."""
    if "mp4" not in source.format.name:
        return None
    try:
        with Path(source.name.removeprefix("file:")).open("rb") as file:
            tracks = [box for box in read_outer_box(file, b"moov").inner if box.name == b"trak"]
    except (OSError, ValueError):
        return None
    return next((track for track in tracks if _id(track) == stream.id and _plane(track) != (0, 0)), None)


def _id(track: Box) -> int | None:
    header = track.find(b"tkhd")
    if header is None:
        return None
    at = 20 if header.fields[:1] == b"\1" else 12
    return int.from_bytes(header.fields[at : at + 4], "big")


def _plane(track: Box) -> tuple[int, int]:
    header = track.find(b"tkhd")
    if header is None or len(header.fields) < 8:
        return 0, 0
    width, height = struct.unpack(">2I", header.fields[-8:])
    return width >> 16, height >> 16


def _as_ycrcb(color: int) -> bytes:
    """A colour of 24 bits (RGB) as Y, Cr and Cb of BT.601, limited range."""
    red, green, blue = color >> 16, color >> 8 & 255, color & 255
    luma = 16 + 0.257 * red + 0.504 * green + 0.098 * blue
    cr = 128 + 0.439 * red - 0.368 * green - 0.071 * blue
    cb = 128 - 0.148 * red - 0.291 * green + 0.439 * blue
    return bytes([0, round(luma), round(cr), round(cb)])


def _sample_entry(palette: bytes) -> Box:
    """A sample entry of an MPEG-4 stream (ISO/IEC 14496-14) with the palette as the decoder's information."""
    decoder = struct.pack(">BBxxxII", 0xE0, 0xE1, 0, 0) + _descriptor(5, palette)
    stream = bytes(3) + _descriptor(4, decoder) + _descriptor(6, b"\2")
    description = Box(b"esds", bytearray(4) + _descriptor(3, stream))
    return Box(b"mp4s", bytearray(struct.pack(">6xH", 1)) + bytes(description))


def _descriptor(tag: int, content: bytes) -> bytes:
    """A descriptor of ISO/IEC 14496-1 with up to 127 bytes."""
    return bytes([tag, len(content)]) + content
