"""Adding the source's other tracks to the result: copied if the container can hold them, else converted or dropped."""

from __future__ import annotations

from typing import Final

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.subtitles.stream import SubtitleStream

from media.tracks import vobsub
from media.tracks.attachments import becomes_attachment, is_cover
from media.tracks.audio import add_transcoded
from media.tracks.copied_sound import add_copied_sound, assumed_positions
from media.tracks.languages import adapt_language
from media.tracks.quicktime import adapt_to_quicktime
from media.tracks.subtitles import add_converted
from media.tracks.tags import copied_tags
from media.tracks.track import Track

_REFUSED: Final = {("mov", "flac"), ("mov", "opus"), ("mov", "vorbis")}
"""Container and codec that libav's muxer claims to accept, but then refuses."""


def is_passed_through(stream: Stream) -> bool:
    """Whether the stream is sound, subtitles or a cover."""
    return is_cover(stream) or stream.type in ("audio", "subtitle")


def add_track(target: OutputContainer, kind: str, stream: Stream, warnings: list[str]) -> Track | None:
    """Add a track for `stream` to a container of a kind (mp4, mkv, …), and a warning about losses.

    None if the container can't hold the track, and for a cover that `add_covers` adds as an attachment.
    """
    if becomes_attachment(kind, stream):
        return None
    label = _label(stream)
    track = _copied(target, kind, stream)
    if track is None:
        track = _converted(target, kind, stream)
        if track is None:
            warnings.append(f"{label} is dropped because {kind} can't hold it.")
            return None
        codec = track.target.codec_context.codec.canonical_name
        warnings.append(f"{label} is converted to {codec} because {kind} can't hold it.")
    elif layout := assumed_positions(kind, stream):
        warnings.append(f"{label} has channels of unknown position; {kind} labels the channels {layout}.")
    track.target.metadata.update(copied_tags(stream.metadata))
    track.target.disposition = stream.disposition
    if kind in ("mp4", "mov"):
        adapt_language(track.target, kind, label, warnings)
    if kind == "mov":
        adapt_to_quicktime(track.target, label, warnings)
    return track


def _codec_name(stream: Stream) -> str:
    return stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"


def _label(stream: Stream) -> str:
    """The track's name at the beginning of a warning."""
    if is_cover(stream):
        return f"The cover picture ({_codec_name(stream)})"
    return f"{stream.type.capitalize()} track {stream.index} ({_codec_name(stream)})"


def _copied(target: OutputContainer, kind: str, stream: Stream) -> Track | None:
    refused = (kind, _codec_name(stream)) in _REFUSED or (is_cover(stream) and kind != "mp4")
    if refused or stream.codec_context is None:
        return None
    try:
        if isinstance(stream, AudioStream):
            sound = add_copied_sound(target, kind, stream)
            return None if sound is None else Track(sound)
        copy = target.add_stream_from_template(stream, opaque=True)
        if _codec_name(stream) == vobsub.CODEC and isinstance(stream.container, InputContainer):
            copy.codec_context.extradata = vobsub.header(stream.container, stream)
        return Track(copy)
    except (ValueError, av.error.FFmpegError):
        return None


def _converted(target: OutputContainer, kind: str, stream: Stream) -> Track | None:
    try:
        if isinstance(stream, AudioStream) and stream.codec_context is not None:
            return add_transcoded(target, kind, stream)
        if isinstance(stream, SubtitleStream):
            return add_converted(target, kind, stream, _codec_name(stream))
    except (ValueError, av.error.FFmpegError):
        pass
    return None
