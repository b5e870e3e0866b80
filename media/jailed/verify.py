"""Comparison of the finished result with the muxer's input.

MP4's headers tell everything. Matroska's packets are counted only up to a file size: the comparison of a long film
takes no longer than the comparison of a short film.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final

import av
from av.container import Container, InputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from media.errors import Unwritable
from media.types import counted

_READ_BYTES: Final = 64 * 2**20
"""Size of a file up to which all packets are counted."""
_FIRST_PACKETS: Final = 500
"""Packets to read of a larger file."""
_TOLERANCE: Final = {"video": Fraction(1, 50), "audio": Fraction(3, 20)}
"""Kind of a track → seconds. Containers round times, and sound begins with some samples that are not heard."""
_RATE_TOLERANCE: Final = Fraction(1, 1000)
_MISSING_ALLOWED: Final = Fraction(1, 2)
"""A result that lacks a larger part of the frames is refused, as a source is."""
_CLOCK: Final = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Promise:
    """The expected content of the result, if the muxer wrote its whole input."""

    name: str
    """The track at the beginning of a sentence: The video, Audio track 1."""
    kind: str
    """libav's type: video, audio or subtitle."""
    packets: int
    begin: Fraction
    """Seconds."""
    seconds: Fraction
    language: str | None = None
    frame_rate: Fraction | None = None
    """Average. None: not the picture."""


@dataclass
class _Found:
    """The expected content of a track of the result."""

    packets: int | None = None
    begin: Fraction | None = None
    end: Fraction | None = None
    """As the headers say."""
    last: Fraction | None = None
    """End of the last packet. Matroska's pictures have no durations: the last picture ends later."""

    def add(self, packet: av.Packet[Stream]) -> None:
        self.packets = (self.packets or 0) + 1
        if packet.pts is not None:
            time = packet.pts * packet.time_base
            self.begin = time if self.begin is None else min(self.begin, time)
            self.last = max(self.last or time, time + (packet.duration or 0) * packet.time_base)


@dataclass
class Verification:
    """Iterable of steps, as proof of progress. After the last step, `warnings` lists the differences.

    Args:
        path: the result.
        promises: number of each track in the result → its promise. The picture is the first track.
        tags: the file's tags.

    Raises:
        Unwritable: the result can't be read, or lacks more than half of the frames.
    """

    path: Path
    promises: Mapping[int, Promise]
    tags: Mapping[str, str]
    warnings: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[None]:
        options = {"probesize": "32", "analyzeduration": "1"}  # the headers are enough
        try:
            with av.open(f"file:{self.path}", options=options, metadata_errors="replace") as container:
                found = {number: _by_header(stream) for number, stream in enumerate(container.streams)}
                if not _has_counts(container):
                    yield from _count(container, found, whole=self.path.stat().st_size <= _READ_BYTES)
                self._compare(container, found)
        except av.error.FFmpegError as error:
            raise Unwritable(
                f"The result can't be read again ({(error.strerror or 'unknown error').lower()})."
            ) from error

    def _compare(self, container: InputContainer, found: Mapping[int, _Found]) -> None:
        streams = container.streams
        picture = found.get(0, _Found())
        for number, promise in self.promises.items():
            if number >= len(streams):
                self.warnings.append(f"{promise.name} is missing in the result.")
                continue
            self.warnings += _amounts(promise, found[number])
            self.warnings += _times(promise, found[number], self.promises[0].begin, picture.begin)
            self.warnings += _facts(promise, streams[number])
        said = set(map(_normal, container.metadata))
        if lost := sorted(name for name, value in self.tags.items() if value and _normal(name) not in said):
            self.warnings.append(f"The result lacks {counted(len(lost), 'tag')} of the file: {', '.join(lost)[:200]}.")


def _has_counts(container: Container) -> bool:
    """Whether the headers state the number of packets."""
    return "mp4" in container.format.name


def _by_header(stream: Stream) -> _Found:
    unit = stream.time_base or Fraction(1)
    begin = None if stream.start_time is None else stream.start_time * unit
    clock = _CLOCK.fullmatch(stream.metadata.get("DURATION", ""))
    end = Fraction(clock[3]) + 60 * int(clock[2]) + 3600 * int(clock[1]) if clock else None
    if end is None and stream.duration is not None and begin is not None:  # Matroska: the file's duration
        end = begin + stream.duration * unit
    return _Found(stream.frames or None, begin, end)


def _count(container: InputContainer, found: Mapping[int, _Found], *, whole: bool) -> Iterator[None]:
    """Read all packets, or only the packets at the beginning of each track."""
    for track in found.values():
        track.packets, track.begin = 0, None  # Matroska's headers state the file's beginning, not the track's
    for packet in container.demux() if whole else islice(container.demux(), _FIRST_PACKETS):
        if packet.size:
            found[packet.stream_index].add(packet)
        yield
    if not whole:
        for track in found.values():
            track.packets = track.last = None


def _normal(name: str) -> str:
    """A tag's name as all containers store it."""
    return name.lower().replace(" ", "_")


def _amounts(promise: Promise, found: _Found) -> Iterator[str]:
    if promise.kind != "video":  # libav's muxers and parsers cut sound and text into other packets
        if found.packets == 0:
            yield f"{promise.name} is empty in the result."
        return
    if found.packets is None or found.packets == promise.packets:
        return
    sentence = f"The result has {found.packets} of {counted(promise.packets, 'frame')}."
    if found.packets < promise.packets * (1 - _MISSING_ALLOWED):
        raise Unwritable(sentence)
    yield sentence


def _times(
    promise: Promise, found: _Found, picture_promised: Fraction, picture_found: Fraction | None
) -> Iterator[str]:
    tolerance = _TOLERANCE.get(promise.kind)
    if tolerance is None or found.begin is None:
        return
    if picture_found is not None:
        late = (found.begin - picture_found) - (promise.begin - picture_promised)
        if abs(late) > tolerance:
            yield f"{promise.name} begins {abs(float(late)):.3f} s too {'late' if late > 0 else 'early'} in the result."
    end = found.last if found.end is None and promise.kind == "audio" else found.end
    if end is not None:
        seconds = end - found.begin
        if abs(seconds - promise.seconds) > tolerance:
            yield f"{promise.name} lasts {float(seconds):.3f} s in the result, not {float(promise.seconds):.3f} s."


def _facts(promise: Promise, stream: Stream) -> Iterator[str]:
    rate = stream.average_rate if isinstance(stream, VideoStream) and _has_counts(stream.container) else None
    if promise.frame_rate and rate and abs(rate / promise.frame_rate - 1) > _RATE_TOLERANCE:
        yield f"The result states {float(rate):.3f} frames a second, not {float(promise.frame_rate):.3f}."
    language = stream.metadata.get("language", "und")
    if language != (promise.language or "und"):
        yield f"{promise.name} has the language {language} in the result, not {promise.language or 'und'}."
