"""Edit lists of MP4 and QuickTime results: the part of a track that players show, and when."""

from __future__ import annotations

import struct
from fractions import Fraction

from media.boxes import Box


def skip_priming(movie: Box, track: Box, seconds: Fraction) -> None:
    """Begin a track behind its priming, at the same time of the movie. Tracks with several edits stay."""
    times, media = movie.find(b"mvhd"), track.find(b"mdia", b"mdhd")
    edits = next((box for box in track.inner if box.name == b"edts"), None)
    if times is None or media is None or edits is None:
        return
    entries = _edits(bytes(edits.fields[8:]))
    if [start for _, start in entries[:-1]] not in ([], [-1]) or not entries:
        return
    of_movie, of_media = _time_scale(times), _time_scale(media)
    empty, (duration, start) = entries[0][0] if len(entries) == 2 else 0, entries[-1]
    hidden = seconds - Fraction(start, of_media)
    if hidden > 0:
        by = round(hidden * of_movie)
        entries = [(empty + by, -1), (max(0, duration - by), round(seconds * of_media))]
        data = struct.pack(">II", 1 << 24, len(entries)) + b"".join(struct.pack(">qqI", *e, 1 << 16) for e in entries)
        edits.fields = bytearray(bytes(Box(b"elst", bytearray(data))))


def _edits(fields: bytes) -> list[tuple[int, int]]:
    """(duration, start) of each entry of an edit list."""
    wide, (count,) = fields[0] == 1, struct.unpack_from(">I", fields, 4)
    form = ">qq4x" if wide else ">Ii4x"
    size = struct.calcsize(form)
    return [struct.unpack_from(form, fields, 8 + size * number) for number in range(count)]


def _time_scale(header: Box) -> int:
    """Units a second of a movie's or a track's header."""
    return int(struct.unpack_from(">I", header.fields, 20 if header.fields[0] else 12)[0])
