"""Copying of sound: the needs of a container beyond the packets."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from media.tracks.trial import can_hold

LAYOUTS_BY_COUNT: Final = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""Number of channels → positions that players assume."""
_CERTAIN: Final = 2
"""Up to this number of channels, the number tells the positions."""


def add_copied_sound(target: OutputContainer, kind: str, stream: AudioStream) -> Stream | None:
    """Add a track for the packets of `stream`. None: a container of a kind (mp4, mkv, …) can't hold the sound.

    Raises:
        ValueError, FFmpegError: the container refuses the track.
    """

    def add(container: OutputContainer) -> AudioStream:
        track = container.add_stream_from_template(stream, opaque=True)
        if kind == "mp4" and lacks_positions(stream):
            # MP4 refuses samples without positions, when the file is complete.
            track.codec_context.layout = LAYOUTS_BY_COUNT.get(
                stream.codec_context.channels, stream.codec_context.layout
            )
        return track

    return add(target) if can_hold(kind, add, _silence(stream)) else None


def lacks_positions(stream: AudioStream) -> bool:
    """Whether the source stores only the number of channels, without their positions. AVI, Matroska and MXF do so."""
    return _is_pcm(stream) and stream.codec_context.layout.name.endswith("channels")


def assumed_positions(kind: str, stream: Stream) -> str | None:
    """The positions that a copy states and the source does not, if the number of channels leaves a doubt."""
    if kind != "mp4" or not isinstance(stream, AudioStream) or not lacks_positions(stream):
        return None
    channels = stream.codec_context.channels
    return LAYOUTS_BY_COUNT.get(channels) if channels > _CERTAIN else None


def _is_pcm(stream: AudioStream) -> bool:
    return stream.codec_context.name.startswith("pcm_")


def _silence(stream: AudioStream) -> Packet[Stream] | None:
    """One packet of the track, with samples of zero. None: the codec has no such packet."""
    if not _is_pcm(stream):
        return None
    packet: Packet[Stream] = Packet(bytes(stream.codec_context.channels * 8))
    packet.pts = packet.dts = 0
    packet.duration, packet.time_base = 1, stream.time_base or Fraction(1)
    return packet
