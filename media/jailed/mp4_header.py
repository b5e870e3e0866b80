"""The header of an MP4 or QuickTime result: facts that libav's muxer does not write, and a place before the frames."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final

from media.boxes import Box, outer_boxes, read_outer_box
from media.jailed.edit_lists import skip_priming
from media.tracks.vobsub import Mp4Description

_BLOCK: Final = 16 * 2**20
"""Bytes that are moved at once."""
_LARGEST: Final = 2**32 - 1
_TEXT, _FLOAT32 = 1, 23
"""Types of a tag's value (QuickTime File Format, well-known types)."""
_CAPTURE_RATE: Final = "com.android.capture.fps"
"""The only tag that Android reads as a number."""


@dataclass(frozen=True)
class Mp4Header:
    """Additions to the header that libav's muxer writes."""

    quicktime: bool = False
    """Whether the file is QuickTime's (mov)."""
    sample_aspect_ratio: Fraction = Fraction(1)
    """Of the first track. Players that ignore the sample entry's `pasp` find the shown width in the track header."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """All tags of the file. libav writes either the known ones in iTunes' form, or all in QuickTime's."""
    languages: Mapping[int, str] = field(default_factory=dict)
    """Number of a track → its language by BCP 47, where the three letters of the media header say less."""
    priming: Mapping[int, Fraction] = field(default_factory=dict)
    """Number of a track of sound → seconds of its codec's priming, which players are to skip. libav hides the part
    before zero only."""
    vobsubs: Mapping[int, Mp4Description] = field(default_factory=dict)
    """Number of a track with VobSub subtitles → its description."""


def finish(path: Path, header: Mp4Header) -> Iterator[None]:
    """Complete the header of a file, and move the header before the frames: players can begin before the file's end.

    Yields after each step, as proof of progress. The file is in place when the iterator ends.

    Raises:
        ValueError: not a file that libav's muxer has just written.
        OSError: the disk is full.
    """
    with path.open("r+b") as file:
        places = {name: (start, end) for name, start, end in outer_boxes(file)}
        movie = read_outer_box(file, b"moov")
        _complete(movie, header)
        if not places.keys() >= {b"ftyp", b"mdat"} or places[b"moov"][0] < places[b"mdat"][0]:
            raise ValueError("the header does not follow the frames")
        begin, end = places[b"ftyp"][1], places[b"moov"][0]
        data = _moved(movie)
        for _ in _shift(file, begin, end, len(data)):
            yield
        file.seek(begin)
        file.write(data)


def _complete(movie: Box, header: Mp4Header) -> None:
    tracks = [box for box in movie.inner if box.name == b"trak"]
    if header.sample_aspect_ratio != 1:
        width, height = struct.unpack(">2I", _track_header(tracks[0]).fields[-8:])
        _set_size(tracks[0], min(round(width * header.sample_aspect_ratio), _LARGEST), height)
    for number, description in header.vobsubs.items():
        width, height = description.plane
        _set_size(tracks[number], width << 16, height << 16)
        if entries := tracks[number].find(b"mdia", b"minf", b"stbl", b"stsd"):
            entries.inner = [description.sample_entry]
    for number, language in header.languages.items():
        if media := tracks[number].find(b"mdia"):
            name = Box(b"elng", bytearray(4) + language.encode() + b"\0")
            media.inner.insert(1, name)  # after the media header
    for number, seconds in header.priming.items():
        skip_priming(movie, tracks[number], seconds)
    if header.tags:
        movie.inner.append(_tags(header.tags, quicktime=header.quicktime))


def _track_header(track: Box) -> Box:
    header = track.find(b"tkhd")
    if header is None:
        raise ValueError("a track has no header")
    return header


def _set_size(track: Box, width: int, height: int) -> None:
    """Set a track's shown size, in 1/65536 pixels."""
    fields = _track_header(track).fields
    struct.pack_into(">2I", fields, len(fields) - 8, width, height)


def _tags(tags: Mapping[str, str], *, quicktime: bool) -> Box:
    """Tags with names of any kind, in QuickTime's form."""
    handler = Box(b"hdlr", bytearray(struct.pack(">8x4s13x", b"mdta")))
    keys = bytearray(struct.pack(">4xI", len(tags)))
    values = Box(b"ilst")
    for number, (name, value) in enumerate(tags.items(), 1):
        keys += bytes(Box(b"mdta", bytearray(name.encode())))
        values.inner.append(Box(number.to_bytes(4, "big"), inner=[Box(b"data", _value(name, value))]))
    version = bytearray(0 if quicktime else 4)  # QuickTime's box has none
    return Box(b"meta", version, [handler, Box(b"keys", keys), values])


def _value(name: str, value: str) -> bytearray:
    if name == _CAPTURE_RATE:
        try:
            return bytearray(struct.pack(">I4xf", _FLOAT32, float(value)))
        except (ValueError, OverflowError):
            pass
    return bytearray(struct.pack(">I4x", _TEXT)) + value.encode()


def _moved(movie: Box) -> bytes:
    """The movie box, with the chunk offsets for a place before all chunks."""
    size = len(bytes(movie))
    tables = [box for name in (b"stco", b"co64") for box in movie.all(name)]
    if any(box.name == b"stco" and max(_offsets(box), default=0) + 2 * size > _LARGEST for box in tables):
        for box in tables:
            offsets = _offsets(box)
            box.name, box.fields[8:] = b"co64", struct.pack(f">{len(offsets)}Q", *offsets)
        size = len(bytes(movie))
    for box in tables:
        code = "Q" if box.name == b"co64" else "I"
        moved = [offset + size for offset in _offsets(box)]
        box.fields[8:] = struct.pack(f">{len(moved)}{code}", *moved)
    return bytes(movie)


def _offsets(box: Box) -> tuple[int, ...]:
    (count,) = struct.unpack_from(">I", box.fields, 4)
    return struct.unpack_from(f">{count}{'Q' if box.name == b'co64' else 'I'}", box.fields, 8)


def _shift(file: BinaryIO, begin: int, end: int, by: int) -> Iterator[None]:
    """Move the bytes from `begin` to `end` towards the file's end, the last ones first."""
    while end > begin:
        start = max(begin, end - _BLOCK)
        file.seek(start)
        data = file.read(end - start)
        file.seek(start + by)
        file.write(data)
        end = start
        yield
