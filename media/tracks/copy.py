"""The tracks that go along with the video: copied where the container can hold them, else converted, else named."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import Final

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Disposition, Stream
from av.subtitles.stream import SubtitleStream

from media.tracks.overlaps import Cue, OneAtATime
from media.tracks.quicktime import say_in_quicktime
from media.tracks.resampling import Resampled
from media.tracks.tags import kept

MUXERS: Final = {"mp4": "mp4", "mov": "mov", "mkv": "matroska", "webm": "webm"}
"""Containers of results, and libav's names for them."""

# What libav's muxer says it takes, and then does not.
_NOT_REALLY: Final = {("mov", "flac"), ("mov", "opus"), ("mov", "vorbis")}
_AUDIO_INSTEAD: Final = {"mp4": "aac", "mov": "aac", "mkv": "aac", "webm": "libopus"}
_TEXT_INSTEAD: Final = {"mp4": "mov_text", "mov": "mov_text", "mkv": "subrip", "webm": "webvtt"}
_PICTURES: Final = {"png": ("png", "image/png"), "mjpeg": ("jpg", "image/jpeg")}
_TEXT_CODECS: Final = {"mov_text", "subrip", "ass", "ssa", "webvtt", "text"}
_ENCODED_LAYOUTS: Final = {"5.1(side)": "5.1", "5.0(side)": "5.0", "quad(side)": "quad", "7.1(wide)": "7.1"}
"""Layouts that few encoders know, and what all do: the same channels, the surround ones a little further back."""
_USUAL_LAYOUTS: Final = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
_LATE_SECONDS: Final = 10
"""How far a subtitle may lie behind the sound of its time in a file, as libav's own muxers place them."""
# The encoders for text want a style sheet to start from, though nothing here goes through them.
_STYLES: Final = (
    b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[V4+ Styles]\r\nFormat: Name, Fontname, Fontsize, PrimaryColour, "
    b"SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, "
    b"BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\r\nStyle: Default,Arial,16,&Hffffff,"
    b"&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0\r\n\r\n[Events]\r\nFormat: Layer, Start, End, Style, "
    b"Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
)


@dataclass(frozen=True)
class Track:
    """One track on its way: packets of the source in, packets of `target` out."""

    target: Stream

    @property
    def loses(self) -> bool:
        """Whether something of the track that a person would miss is not kept."""
        return False

    def packets(self, packet: Packet[Stream]) -> Iterator[Packet[Stream]]:
        """What comes out for one packet; for the empty one at the end, what was held back."""
        if packet.size:
            if packet.dts is None:
                packet.dts = packet.pts
            packet.stream = self.target
            yield packet

    def until(self, time: Fraction) -> Iterator[Packet[Stream]]:
        """What was held back and is known once the file is read to `time` (seconds)."""
        yield from ()


@dataclass(frozen=True)
class TranscodedAudio(Track):
    """Sound in a codec that the container can't hold, encoded anew; what does not come through is silence."""

    source: AudioStream
    encoder: AudioStream
    _resampled: Resampled

    def packets(self, packet: Packet[Stream]) -> Iterator[Packet[Stream]]:
        """Decode and encode."""
        try:
            frames = self.source.decode(packet if packet.size else None)
        except av.error.FFmpegError:
            frames = []
        for frame in chain.from_iterable(map(self._resampled.take, frames)):
            yield from self._encoded(frame)
        if not packet.size:
            for frame in self._resampled.rest():
                yield from self._encoded(frame)
            yield from self._encoded(None)

    def _encoded(self, frame: AudioFrame | None) -> list[Packet[Stream]]:
        try:
            return list(self.encoder.encode(frame))
        except (ValueError, av.error.FFmpegError):
            return []


@dataclass(frozen=True)
class ConvertedText(Track):
    """Subtitles as text in the form of another container; styles are lost, words and times are kept."""

    codec: str

    @property
    def loses(self) -> bool:
        """The styles of ASS are where signs and songs are."""
        return self.codec in ("ass", "ssa")

    def packets(self, packet: Packet[Stream]) -> Iterator[Packet[Stream]]:
        """Unpack the text and pack it anew."""
        if packet.size and packet.pts is not None:
            text = plain_text(self.codec, bytes(packet)).encode()
            yield self._packed(text, packet.pts, packet.duration or 0, packet.time_base)

    def _packed(self, text: bytes, pts: int, duration: int, unit: Fraction) -> Packet[Stream]:
        out: Packet[Stream] = Packet(text)
        out.time_base, out.pts, out.dts, out.duration = unit, pts, pts, duration
        out.is_keyframe, out.stream = True, self.target
        return out


@dataclass(frozen=True)
class TimedText(ConvertedText):
    """Subtitles as MP4's text, whose samples follow one another: what overlaps becomes one text with all lines."""

    unit: Fraction
    """Seconds of one unit of the source's times."""
    _cues: OneAtATime = field(default_factory=OneAtATime)

    def packets(self, packet: Packet[Stream]) -> Iterator[Packet[Stream]]:
        """Unpack the text, and pack what is known of what is shown before it."""
        if not packet.size:
            yield from map(self._sample, self._cues.rest())
        elif packet.pts is not None:
            end = packet.pts + packet.duration if packet.duration else None
            yield from map(self._sample, self._cues.add(Cue(packet.pts, end, plain_text(self.codec, bytes(packet)))))

    def until(self, time: Fraction) -> Iterator[Packet[Stream]]:
        """What ends before `time`."""
        yield from map(self._sample, self._cues.until(int((time - _LATE_SECONDS) / self.unit)))

    def _sample(self, cue: Cue) -> Packet[Stream]:
        # The length that stands before the text has two bytes.
        text = cue.text.encode()[:0xFFFF].decode(errors="ignore").encode()
        duration = 0 if cue.end is None else cue.end - cue.start
        return self._packed(struct.pack(">H", len(text)) + text, cue.start, duration, self.unit)


def add_track(target: OutputContainer, kind: str, stream: Stream, warnings: list[str]) -> Track | None:
    """Add a track for `stream` of the source to a container of a kind (mp4, mkv, …); None, and a warning, if it
    can't be kept; None without one for a cover that `add_covers` keeps."""
    name = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
    cover = is_cover(stream)
    what = f"the cover picture ({name})" if cover else f"{stream.type} track {stream.index} ({name})"
    if is_kept_aside(kind, stream):
        return None
    track: Track | None = None
    if stream.codec_context is not None and (kind, name) not in _NOT_REALLY and not (cover and kind != "mp4"):
        try:
            if stream.type != "audio" or _begins(
                kind, lambda trial: trial.add_stream_from_template(stream, opaque=True)
            ):
                track = Track(target.add_stream_from_template(stream, opaque=True))
        except (ValueError, av.error.FFmpegError):
            track = None
    if track is None:
        try:
            track = _converted(target, kind, stream, name)
        except (ValueError, av.error.FFmpegError):
            track = None
        if track is not None:
            into = track.target.codec_context.codec.canonical_name
            warnings.append(f"{what} was converted to {into}, as {kind} can't hold it")
    if track is None:
        warnings.append(f"{what} is left out, as {kind} can't hold it")
        return None
    track.target.metadata.update(kept(stream.metadata))
    track.target.disposition = stream.disposition
    if kind == "mov":
        say_in_quicktime(track.target, what, warnings)
    return track


def _converted(target: OutputContainer, kind: str, stream: Stream, name: str) -> Track | None:
    if isinstance(stream, AudioStream) and stream.codec_context is not None:
        codec = _AUDIO_INSTEAD[kind]
        rate = 48000 if codec == "libopus" else _rate(codec, stream.codec_context.sample_rate)
        layout = stream.codec_context.layout.name
        layout = _ENCODED_LAYOUTS.get(layout, layout)
        if layout.endswith("channels"):  # AVI and others say how many, not where they sit
            layout = _USUAL_LAYOUTS.get(stream.codec_context.channels, "stereo")
        if not _begins(kind, lambda trial: trial.add_stream(codec, rate=rate, layout=layout)):
            layout = "stereo"
        encoder = target.add_stream(codec, rate=rate, layout=layout)
        assert isinstance(encoder, AudioStream)
        return TranscodedAudio(encoder, stream, encoder, Resampled(encoder))
    if isinstance(stream, SubtitleStream) and name in _TEXT_CODECS and stream.time_base is not None:
        text = target.add_stream(_TEXT_INSTEAD[kind])
        assert isinstance(text, SubtitleStream)
        text.codec_context.subtitle_header = _STYLES
        text.time_base = stream.time_base
        if text.codec_context.name == "mov_text":
            return TimedText(text, name, stream.time_base)
        return ConvertedText(text, name)
    return None


def _begins(kind: str, add: Callable[[OutputContainer], Stream]) -> bool:
    """Whether a container of that kind can be begun with such a track: some muxers and encoders take one, and refuse
    it when it comes to writing, which is after all the work."""
    trial = av.open(io.BytesIO(), "w", format=MUXERS[kind])
    try:
        add(trial)
        trial.start_encoding()
    except (ValueError, av.error.FFmpegError):
        return False
    with suppress(ValueError, av.error.FFmpegError):  # some want to see a packet before they end
        trial.close()
    return True


def _rate(codec: str, rate: int) -> int:
    """The sample rate at which to encode what has that one."""
    known = sorted(av.codec.Codec(codec, "w").audio_rates or [rate])
    return next((r for r in known if r >= rate), known[-1])


def add_covers(target: OutputContainer, kind: str, source: InputContainer) -> None:
    """Keep cover pictures where they are attachments. Reads `source` no further than to them."""
    for stream in source.streams:
        if not is_kept_aside(kind, stream):
            continue
        # Pictures come before all other packets.
        packet = next((packet for packet in source.demux(stream) if packet.size), None)
        if packet is not None and stream.codec_context is not None:
            suffix, mimetype = _PICTURES[stream.codec_context.codec.canonical_name]
            target.add_attachment(stream.metadata.get("filename", f"cover.{suffix}"), mimetype, bytes(packet))


def add_attachments(
    target: OutputContainer, kind: str, attachments: tuple[AttachmentStream, ...], warnings: list[str]
) -> None:
    """Fonts and other files: kept in mkv, named elsewhere."""
    for stream in attachments:
        name = stream.metadata.get("filename", f"attachment {stream.index}")
        if kind == "mkv":
            target.add_attachment(name, stream.mimetype or "application/octet-stream", stream.data)
        else:
            warnings.append(f"the attachment {name} is left out, as {kind} can't hold it")


def goes_along(stream: Stream) -> bool:
    """Whether it is sound, subtitles, or cover art."""
    return is_cover(stream) or stream.type in ("audio", "subtitle")


def is_cover(stream: Stream) -> bool:
    """Whether it is a picture to show for the file."""
    return stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)


def is_kept_aside(kind: str, stream: Stream) -> bool:
    """Whether it is a cover that becomes an attachment."""
    context = stream.codec_context
    return kind == "mkv" and is_cover(stream) and context is not None and context.codec.canonical_name in _PICTURES


def plain_text(codec: str, data: bytes) -> str:
    """The words of one subtitle packet, without its codec's packing and marks."""
    if codec == "mov_text":
        size = int.from_bytes(data[:2], "big")
        return data[2 : 2 + size].decode("utf-8", "replace")
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").rstrip("\0\n")
    if codec in ("ass", "ssa"):
        text = text.split(",", 8)[-1]
        text = re.sub(r"\{[^}]*\\p[1-9][^}]*\}.*?(?=\{[^}]*\\p0|$)", "", text, flags=re.DOTALL)  # drawings
        return re.sub(r"\{[^}]*\}", "", text).replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
    return re.sub(r"<[^>]*>|\{\\[^}]*\}", "", text)
