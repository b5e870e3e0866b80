"""Transcoding of sound, for containers without support of its codec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from media.tracks.copied_sound import LAYOUTS_BY_COUNT
from media.tracks.resampling import FormatFollowingResampler
from media.tracks.track import Track
from media.tracks.trial import can_begin

_CODECS: Final = {"mp4": "aac", "mov": "aac", "mkv": "aac", "webm": "libopus"}
"""Container → encoder."""
_COMMON_LAYOUTS: Final = {"5.1(side)": "5.1", "5.0(side)": "5.0", "quad(side)": "quad", "7.1(wide)": "7.1"}
"""Rarely accepted layouts → universally accepted layouts with other surround positions."""
_OPUS_RATE: Final = 48000


@dataclass(frozen=True)
class TranscodedAudio(Track):
    """Sound that is decoded and encoded again. Undecodable parts become silence."""

    source: AudioStream
    encoder: AudioStream
    _resampler: FormatFollowingResampler

    def packets(self, packet: Packet[Stream]) -> Iterator[Packet[Stream]]:
        """Decode, resample and encode one packet."""
        try:
            frames = self.source.decode(packet if packet.size else None)
        except av.error.FFmpegError:
            frames = []
        for frame in chain.from_iterable(map(self._resampler.resample, frames)):
            yield from self._encoded(frame)
        if not packet.size:
            for frame in self._resampler.flush():
                yield from self._encoded(frame)
            yield from self._encoded(None)

    def _encoded(self, frame: AudioFrame | None) -> list[Packet[Stream]]:
        try:
            return list(self.encoder.encode(frame))
        except (ValueError, av.error.FFmpegError):
            return []


def add_transcoded(target: OutputContainer, kind: str, stream: AudioStream) -> TranscodedAudio:
    """Add an encoder for the sound of `stream` to a container of a kind (mp4, mkv, …).

    Raises:
        ValueError, FFmpegError: the container or the encoder refuses the track.
    """
    codec, layout = _CODECS[kind], _layout(stream.codec_context)
    rate = _OPUS_RATE if codec == "libopus" else _supported_rate(codec, stream.codec_context.sample_rate)
    if not can_begin(kind, lambda trial: trial.add_stream(codec, rate=rate, layout=layout)):
        layout = "stereo"
    encoder = target.add_stream(codec, rate=rate, layout=layout)
    assert isinstance(encoder, AudioStream)
    return TranscodedAudio(encoder, stream, encoder, FormatFollowingResampler(encoder))


def _layout(context: AudioCodecContext) -> str:
    layout = context.layout.name
    if layout.endswith("channels"):  # AVI and others store the number of channels, not their positions
        return LAYOUTS_BY_COUNT.get(context.channels, "stereo")
    return _COMMON_LAYOUTS.get(layout, layout)


def _supported_rate(codec: str, rate: int) -> int:
    """The encoder's lowest sample rate of at least `rate`, else its highest sample rate."""
    supported = sorted(av.codec.Codec(codec, "w").audio_rates or [rate])
    return next((r for r in supported if r >= rate), supported[-1])
