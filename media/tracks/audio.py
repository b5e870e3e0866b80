"""Transcoding of sound, for containers without support of its codec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Final

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from media.tracks.continuity import Continuity
from media.tracks.copied_sound import LAYOUTS_BY_COUNT
from media.tracks.resampling import FormatFollowingResampler
from media.tracks.sound_format import SoundFormat, sound_format
from media.tracks.track import Track
from media.tracks.trial import can_begin

_CODECS: Final = {"mp4": "aac", "mov": "aac", "mkv": "aac", "webm": "libopus"}
"""Container → encoder of sound that was compressed with losses."""
_LOSSLESS: Final = {"mov": "alac", "mkv": "flac"}
"""Container → encoder of sound without losses."""
_COMMON_LAYOUTS: Final = {"5.1(side)": "5.1", "5.0(side)": "5.0", "quad(side)": "quad", "7.1(wide)": "7.1"}
"""Rarely accepted layouts → universally accepted layouts with other surround positions."""
_OPUS_RATE: Final = 48000


class _Observed:
    """Facts of a conversion so far."""

    def __init__(self) -> None:
        self.frame: Fraction | None = None
        """Time in seconds of the first frame into the encoder."""
        self.packet: Fraction | None = None
        """Time in seconds of the encoder's first packet."""
        self.undecodable = 0


@dataclass(frozen=True)
class TranscodedAudio(Track):
    """Sound that is decoded and encoded again. Undecodable parts become silence."""

    source: AudioStream
    encoder: AudioStream
    _resampler: FormatFollowingResampler
    _continuity: Continuity = field(default_factory=Continuity)
    _observed: _Observed = field(default_factory=_Observed)

    @property
    def priming(self) -> Fraction:
        """Seconds by which the first packet precedes the first frame."""
        frame, packet = self._observed.frame, self._observed.packet
        return Fraction(0) if frame is None or packet is None else max(Fraction(0), frame - packet)

    @property
    def undecodable(self) -> int:
        """Packets of the source that the decoder refused."""
        return self._observed.undecodable

    def packets(self, packet: Packet[Stream]) -> Iterator[Packet[Stream]]:
        """Decode, resample and encode one packet."""
        try:
            frames = self.source.decode(packet if packet.size else None)
        except av.error.FFmpegError:
            frames = []
            self._observed.undecodable += bool(packet.size)
        time = None if packet.pts is None else packet.pts * packet.time_base
        for frame in frames:
            yield from self._converted(frame, time)
        if not packet.size:
            for frame in self._resampler.flush():
                yield from self._encoded(frame)
            yield from self._encoded(None)

    def _converted(self, frame: AudioFrame, packet_time: Fraction | None) -> Iterator[Packet[Stream]]:
        for part, start in self._continuity.placed(frame, packet_time):
            for resampled in self._resampler.resample(part, start):
                yield from self._encoded(resampled)

    def _encoded(self, frame: AudioFrame | None) -> list[Packet[Stream]]:
        observed = self._observed
        if frame is not None and observed.frame is None:
            observed.frame = (frame.pts or 0) * (frame.time_base or Fraction(0))
        try:
            packets = list(self.encoder.encode(frame))
            if packets and observed.packet is None:
                observed.packet = (packets[0].pts or 0) * packets[0].time_base
            return packets
        except (ValueError, av.error.FFmpegError):
            return []


def add_transcoded(target: OutputContainer, kind: str, stream: AudioStream) -> TranscodedAudio:
    """Add an encoder for the sound of `stream` to a container of a kind (mp4, mkv, …).

    In mkv and mov, uncompressed or losslessly compressed samples stay unchanged.

    Raises:
        ValueError, FFmpegError: the container or the encoder refuses the track, or the sound can't be decoded.
    """
    sound = sound_format(stream)
    for codec in _encoders(kind, sound):
        rate = _OPUS_RATE if codec == "libopus" else _supported_rate(codec, sound.rate)
        for layout in dict.fromkeys((_layout(sound, codec), "stereo")):
            add = partial(_add, codec=codec, rate=rate, layout=layout, samples=sound.samples)
            if can_begin(kind, add):
                encoder = add(target)
                return TranscodedAudio(encoder, stream, encoder, FormatFollowingResampler(encoder))
    raise ValueError(f"{kind} takes none of the encoders")


def _encoders(kind: str, sound: SoundFormat) -> Iterator[str]:
    """Encoders for a container, the best one first."""
    if kind in _LOSSLESS and sound.is_pcm and sound.pcm_encoder:
        yield sound.pcm_encoder
    if kind in _LOSSLESS and (sound.is_pcm or sound.is_lossless):
        yield _LOSSLESS[kind]
    yield _CODECS[kind]


def _add(target: OutputContainer, *, codec: str, rate: int, layout: str, samples: str) -> AudioStream:
    encoder = target.add_stream(codec, rate=rate, layout=layout)
    assert isinstance(encoder, AudioStream)
    if codec in _LOSSLESS.values():
        wide = samples in ("s32", "flt", "dbl")
        encoder.format = {"flac": ("s16", "s32"), "alac": ("s16p", "s32p")}[codec][wide]
    return encoder


def _layout(sound: SoundFormat, codec: str) -> str:
    if sound.layout.endswith("channels") and not codec.startswith("pcm_"):
        # AVI and others store the number of channels, not their positions.
        return LAYOUTS_BY_COUNT.get(sound.channels, "stereo")
    return sound.layout if codec.startswith("pcm_") else _COMMON_LAYOUTS.get(sound.layout, sound.layout)


def _supported_rate(codec: str, rate: int) -> int:
    """The encoder's lowest sample rate of at least `rate`, else its highest sample rate."""
    supported = sorted(av.codec.Codec(codec, "w").audio_rates or [rate])
    return next((r for r in supported if r >= rate), supported[-1])
