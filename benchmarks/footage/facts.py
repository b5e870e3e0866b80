"""Facts of a media file, of a source and of a result alike: picture, tracks, times, tags. libav reads all facts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import av
from av.container import InputContainer
from av.stream import Disposition, Stream

from benchmarks.footage.boxes import mp4_facts
from media.tracks.subtitles import plain_text

_SAFE: Final = {"protocol_whitelist": "file"}


@dataclass
class TrackFacts:
    """One track that is not the main picture."""

    index: int
    kind: str
    codec: str
    language: str | None = None
    title: str | None = None
    dispositions: list[str] = field(default_factory=list)
    sample_rate: int | None = None
    channels: int | None = None
    size: str | None = None
    packets: int = 0
    sha256: str = ""
    """Of all packets' bytes, the first 16 digits."""
    first: Fraction | None = None
    """Time of the first packet in seconds."""
    heard: Fraction | None = None
    """Time of the first sound that a player plays, after the codec's priming."""
    end: Fraction | None = None
    longest_gap: Fraction = Fraction(0)
    """Between the end of a packet and the next one, in seconds."""
    lines: list[str] = field(default_factory=list)
    """Start and words of each subtitle."""


@dataclass
class PictureFacts:
    """The main picture."""

    index: int
    codec: str
    tag: str
    width: int
    height: int
    pixel_format: str
    sample_aspect_ratio: str
    colors: list[int]
    """Primaries, transfer, matrix, range."""
    matrix: list[int] | None
    """The nine numbers of the display matrix."""
    rotation: int
    interlaced: bool
    average_rate: str | None
    nominal_rate: str | None
    bytes: int
    times: list[Fraction]
    """Time of each frame in seconds, in display order."""
    end: Fraction | None
    """End of the last frame."""


@dataclass
class FileFacts:
    """A whole file."""

    container: str
    duration: float | None
    size_bytes: int
    tags: dict[str, str]
    chapters: list[str]
    picture: PictureFacts | None
    tracks: list[TrackFacts]
    boxes: dict[str, Any]

    @property
    def offset(self) -> Fraction | None:
        """Seconds from the first picture to the first packet of sound."""
        return self._after_picture(next((track.first for track in self.tracks if track.kind == "audio"), None))

    @property
    def heard_offset(self) -> Fraction | None:
        """Seconds from the first picture to the first sound that a player plays."""
        return self._after_picture(next((track.heard for track in self.tracks if track.kind == "audio"), None))

    def _after_picture(self, sound: Fraction | None) -> Fraction | None:
        if sound is None or self.picture is None or not self.picture.times:
            return None
        return sound - self.picture.times[0]


def opened(path: Path) -> InputContainer:
    """Open a file, and nothing that the file names."""
    return av.open(f"file:{path.absolute()}", options=_SAFE, metadata_errors="replace")


def file_facts(path: Path, *, decode: bool) -> FileFacts:
    """Collect all facts.

    Args:
        decode: whether to decode each frame, for sources whose packets have no display times. The packets' times
            serve otherwise.
    """
    with opened(path) as container:
        main = main_picture(container)
        packets = _packets(path)
        picture = None if main is None else _picture(container, main, path, packets.get(main.index, []), decode=decode)
        return FileFacts(
            container=container.format.name,
            duration=container.duration / av.time_base if container.duration else None,
            size_bytes=path.stat().st_size,
            tags={name.lower(): value for name, value in container.metadata.items()},
            chapters=list(_chapters(container)),
            picture=picture,
            tracks=[_track(s, path, packets.get(s.index, [])) for s in container.streams if s is not main],
            boxes=mp4_facts(path),
        )


def main_picture(container: InputContainer) -> Any:
    """libav's best video stream that is not a cover, as the product chooses. None without one."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    return best if best in streams else next(iter(streams), None)


def _decoded_times(container: InputContainer, stream: Any) -> Iterator[Fraction]:
    with suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            with suppress(av.error.FFmpegError):
                for frame in stream.decode(packet):
                    if frame.pts is not None and frame.time_base:
                        yield frame.pts * frame.time_base


@dataclass
class _Packet:
    time: Fraction | None
    duration: Fraction
    data: bytes


def _packets(path: Path) -> dict[int, list[_Packet]]:
    """Packets of each stream up to the first error."""
    found: dict[int, list[_Packet]] = {}
    with opened(path) as container, suppress(av.error.FFmpegError):
        for packet in container.demux():
            if packet.size:
                time = packet.pts if packet.pts is not None else packet.dts
                seconds = None if time is None else time * packet.time_base
                duration = (packet.duration or 0) * packet.time_base
                found.setdefault(packet.stream_index, []).append(_Packet(seconds, duration, bytes(packet)))
    return found


def _picture(container: InputContainer, stream: Any, path: Path, packets: list[_Packet], *, decode: bool) -> Any:
    context = stream.codec_context
    with opened(path) as again:
        frame = _first_frame(again, again.streams[stream.index])
        matrix = _display_matrix(frame)
    times = sorted(packet.time for packet in packets if packet.time is not None)
    if decode:
        times = list(_decoded_times(container, stream))
    ends = [packet.time + packet.duration for packet in packets if packet.time is not None]
    return PictureFacts(
        index=stream.index,
        codec=context.codec.canonical_name if context else "unknown",
        tag=str(context.codec_tag).strip("\0") if context else "",
        width=frame.width if frame else stream.width,
        height=frame.height if frame else stream.height,
        pixel_format=frame.format.name if frame else "unknown",
        sample_aspect_ratio=str(stream.sample_aspect_ratio or 1),
        colors=[int(v) for v in (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range)]
        if frame
        else [],
        matrix=matrix,
        rotation=int(frame.rotation) if frame else 0,
        interlaced=bool(frame and frame.interlaced_frame),
        average_rate=str(stream.average_rate) if stream.average_rate else None,
        nominal_rate=str(stream.base_rate) if stream.base_rate else None,
        bytes=sum(len(packet.data) for packet in packets),
        times=times,
        end=_end_of_track(container, stream, times) or max(ends, default=None),
    )


def _end_of_track(container: InputContainer, stream: Any, times: list[Fraction]) -> Fraction | None:
    """End in seconds in MP4, whose packets have the distance to the next one in coding order as duration.

    None in other containers, and if the header leaves out the last frame's duration.
    """
    if "mp4" not in container.format.name or None in (stream.start_time, stream.duration):
        return None
    end = Fraction((stream.start_time + stream.duration) * stream.time_base)
    return end if times and end > max(times) else None


def _display_matrix(frame: Any) -> list[int] | None:
    with suppress(ValueError):  # PyAV has no name for one of the frame's side data
        for side in frame.side_data if frame else ():
            if side.type.name == "DISPLAYMATRIX":
                return list(memoryview(bytes(side)[:36]).cast("i"))
    return None


def _first_frame(container: InputContainer, stream: Any) -> Any:
    with suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            with suppress(av.error.FFmpegError):
                for frame in stream.decode(packet):
                    return frame
    return None


def _track(stream: Stream, path: Path, packets: list[_Packet]) -> TrackFacts:
    context: Any = stream.codec_context
    timed = [(packet.time, packet.duration) for packet in packets if packet.time is not None]
    track = TrackFacts(
        index=stream.index,
        kind="cover" if stream.disposition & Disposition.attached_pic else stream.type,
        codec=context.codec.canonical_name if context else "unknown",
        language=stream.metadata.get("language"),
        title=stream.metadata.get("title"),
        dispositions=[str(mark.name) for mark in Disposition if mark & stream.disposition],
        packets=len(packets),
        sha256=hashlib.sha256(b"".join(packet.data for packet in packets)).hexdigest()[:16],
        first=min((time for time, _ in timed), default=None),
        end=max((time + duration for time, duration in timed), default=None),
    )
    if stream.type == "audio" and context:
        track.sample_rate, track.channels = context.sample_rate, context.channels
        track.heard = _heard(path, stream.index, track.first)
        gaps = [after - before - length for (before, length), (after, _) in pairwise(timed)]
        track.longest_gap = max([*gaps, Fraction(0)])
    elif stream.type == "video" and context:
        track.size = f"{context.width}×{context.height}"
    elif stream.type == "subtitle" and context:
        track.lines = list(_lines(context.codec.canonical_name, packets))
    return track


def _heard(path: Path, index: int, first: Fraction | None) -> Fraction | None:
    """Time of the first decoded sound; of the first packet, if the decoder gives no time."""
    with opened(path) as container:
        frame = _first_frame(container, container.streams[index])
        return frame.pts * frame.time_base if frame and frame.pts is not None and frame.time_base else first


def _lines(codec: str, packets: list[_Packet]) -> Iterator[str]:
    if codec not in ("subrip", "mov_text", "ass", "ssa", "webvtt", "text"):
        return
    for packet in packets:
        if packet.time is not None and (words := plain_text(codec, packet.data)):
            yield f"{float(packet.time):g} s {words!r}"


def _chapters(container: InputContainer) -> Iterator[str]:
    for chapter in container.chapters():
        unit = chapter["time_base"]
        if unit:
            bounds = f"{float(chapter['start'] * unit):g}–{float(chapter['end'] * unit):g} s"
            yield f"{bounds} {chapter['metadata'].get('title', '')}"


def as_plain(facts: FileFacts) -> dict[str, Any]:
    """The facts as JSON types. Times become their number, first, end, and the shortest and longest step."""
    plain: dict[str, Any] = asdict(facts)
    plain["offset_ms"], plain["heard_offset_ms"] = _milliseconds(facts.offset), _milliseconds(facts.heard_offset)
    for track in plain["tracks"]:
        track["seconds"] = _seconds(track["first"], track["end"])
        for name in ("first", "heard", "end", "longest_gap"):
            track[name] = None if track[name] is None else float(track[name])
    if facts.picture is not None:
        plain["picture"] |= _steps(plain["picture"].pop("times"), facts.picture.end)
    return plain


def _steps(times: list[Fraction], end: Fraction | None) -> dict[str, Any]:
    steps = [after - before for before, after in pairwise(times)]
    return {
        "frames": len(times),
        "first": float(times[0]) if times else None,
        "end": None if end is None else float(end),
        "seconds": _seconds(times[0] if times else None, end),
        "last_ms": _milliseconds(end - times[-1] if times and end is not None else None),
        "shortest_step_ms": _milliseconds(min(steps, default=None)),
        "longest_step_ms": _milliseconds(max(steps, default=None)),
    }


def _seconds(first: Fraction | None, end: Fraction | None) -> float | None:
    return None if first is None or end is None else round(float(end - first), 6)


def _milliseconds(value: Fraction | None) -> float | None:
    return None if value is None else round(float(1000 * value), 3)
