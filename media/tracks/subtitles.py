"""Conversion of text subtitles to the format of the result's container. Styles are lost; text and times are kept."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.subtitles.stream import SubtitleStream

from media.tracks.cue_merger import Cue, CueMerger
from media.tracks.track import Track

_FORMATS: Final = {"mp4": "mov_text", "mov": "mov_text", "mkv": "subrip", "webm": "webvtt"}
"""Container → subtitle format."""
_TEXT_CODECS: Final = {"mov_text", "subrip", "ass", "ssa", "webvtt", "text"}
_LATE_SECONDS: Final = 10
"""Longest distance in a file between a subtitle and simultaneous sound, by the interleaving of libav's muxers."""
_MAX_SAMPLE_BYTES: Final = 0xFFFF
"""Longest text of an MP4 sample: two bytes hold the length."""
# libav's subtitle encoders require a style sheet, although no text passes through them here.
_STYLES: Final = (
    b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[V4+ Styles]\r\nFormat: Name, Fontname, Fontsize, PrimaryColour, "
    b"SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, "
    b"BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\r\nStyle: Default,Arial,16,&Hffffff,"
    b"&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0\r\n\r\n[Events]\r\nFormat: Layer, Start, End, Style, "
    b"Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
)


@dataclass(frozen=True)
class ConvertedText(Track):
    """Subtitles as plain text in another format."""

    codec: str
    """The source's codec."""

    @property
    def loses(self) -> bool:
        """ASS styles place and mark signs and songs: viewers would miss the styles."""
        return self.codec in ("ass", "ssa")

    def packets(self, packet: Packet[Stream]) -> Iterator[Packet[Stream]]:
        """Unpack the text, and pack it in the new format."""
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
    """Subtitles as MP4's text. MP4's samples can't overlap: overlapping cues become a single text with all lines."""

    unit: Fraction
    """Seconds of one unit of the source's timestamps."""
    _merger: CueMerger = field(default_factory=CueMerger)

    def packets(self, packet: Packet[Stream]) -> Iterator[Packet[Stream]]:
        """Add a cue, and pack the samples that are complete."""
        if not packet.size:
            yield from map(self._sample, self._merger.flush())
        elif packet.pts is not None:
            end = packet.pts + packet.duration if packet.duration else None
            yield from map(self._sample, self._merger.add(Cue(packet.pts, end, plain_text(self.codec, bytes(packet)))))

    def until(self, time: Fraction) -> Iterator[Packet[Stream]]:
        """Pack the samples that end before `time`."""
        yield from map(self._sample, self._merger.until(int((time - _LATE_SECONDS) / self.unit)))

    def _sample(self, cue: Cue) -> Packet[Stream]:
        text = cue.text.encode()[:_MAX_SAMPLE_BYTES].decode(errors="ignore").encode()
        duration = 0 if cue.end is None else cue.end - cue.start
        return self._packed(struct.pack(">H", len(text)) + text, cue.start, duration, self.unit)


def add_converted(target: OutputContainer, kind: str, stream: SubtitleStream, codec: str) -> ConvertedText | None:
    """Add a text track for `stream` to a container of a kind (mp4, mkv, …). None: the subtitles are no text.

    Raises:
        ValueError, FFmpegError: the container refuses the track.
    """
    if codec not in _TEXT_CODECS or stream.time_base is None:
        return None
    text = target.add_stream(_FORMATS[kind])
    assert isinstance(text, SubtitleStream)
    text.codec_context.subtitle_header = _STYLES
    text.time_base = stream.time_base
    if text.codec_context.name == "mov_text":
        return TimedText(text, codec, stream.time_base)
    return ConvertedText(text, codec)


def plain_text(codec: str, data: bytes) -> str:
    """The text of a subtitle packet up to the first zero byte, without the codec's framing and markup."""
    if codec == "mov_text":
        size = int.from_bytes(data[:2], "big")
        return data[2 : 2 + size].partition(b"\0")[0].decode("utf-8", "replace")
    text = data.partition(b"\0")[0].decode("utf-8", "replace").replace("\r\n", "\n").rstrip("\n")
    if codec in ("ass", "ssa"):
        text = text.split(",", 8)[-1]
        text = re.sub(r"\{[^}]*\\p[1-9][^}]*\}.*?(?=\{[^}]*\\p0|$)", "", text, flags=re.DOTALL)  # drawings
        return re.sub(r"\{[^}]*\}", "", text).replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
    return re.sub(r"<[^>]*>|\{\\[^}]*\}", "", text)
