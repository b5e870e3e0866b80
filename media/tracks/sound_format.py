"""Format of a sound track: its rate and layout, and the encoders that keep every sample."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from media.demux.opening import open_untrusted
from media.limits import Limits

_OPENED_BEFORE: Final = Limits(max_upload_bytes=2**62, max_streams=2**30)
"""The file has passed the user's limits."""
_ATTEMPTS: Final = 300
"""Packets to decode before the search for a first frame gives up."""
_SAMPLES: Final = ("pcm_", "s302m", "dvaudio")
"""Beginnings of the names of codecs that store samples."""
_24_BITS: Final = ("pcm_s24", "pcm_u24", "pcm_dvd", "pcm_bluray", "pcm_lxf", "s302m")
"""Beginnings of the names of codecs of at most 24 bits, whose decoders give 32."""
_LOSSLESS: Final = frozenset(["flac", "alac", "wavpack", "tta", "ape", "tak", "als", "shorten", "wmalossless", "ralf"])
_ENCODERS: Final = {
    "u8": "pcm_u8",
    "s16": "pcm_s16le",
    "s32": "pcm_s32le",
    "flt": "pcm_f32le",
    "dbl": "pcm_f64le",
}
"""Decoder's sample format → encoder of the same samples."""
_LOSSY_SAMPLES: Final = ("pcm_alaw", "pcm_mulaw", "pcm_vidc")
"""Companded samples of 8 bits, whose decoders give 16."""


class SoundFormat(NamedTuple):
    """Format of decoded sound."""

    codec: str
    rate: int
    layout: str
    channels: int
    samples: str
    """libav's name of the packed sample format: u8, s16, s32, flt, dbl."""

    @property
    def is_pcm(self) -> bool:
        """Whether the codec stores samples."""
        return self.codec.startswith(_SAMPLES) and not self.codec.startswith(_LOSSY_SAMPLES)

    @property
    def is_lossless(self) -> bool:
        """Whether the codec compresses samples without losses."""
        return self.codec in _LOSSLESS

    @property
    def pcm_encoder(self) -> str | None:
        """libav's encoder of the same samples. None for a sample format without one."""
        if self.samples == "s32" and self.codec.startswith(_24_BITS):
            return "pcm_s24le"
        return _ENCODERS.get(self.samples)


def sound_format(stream: AudioStream) -> SoundFormat:
    """The format of a track: as its header says, or else of the first frame.

    Raises:
        ValueError: no frame can be decoded.
    """
    context = stream.codec_context
    rate, channels, layout = context.sample_rate, context.channels, context.layout.name
    samples = context.format.packed.name if context.format else "flt"
    if not (rate and channels):
        frame = _first_frame(stream)
        if frame is None:
            raise ValueError("no sound can be decoded")
        rate, channels, layout = frame.sample_rate, frame.layout.nb_channels, frame.layout.name
        samples = frame.format.packed.name
    return SoundFormat(context.codec.canonical_name, rate, layout, channels, samples)


def _first_frame(stream: AudioStream) -> AudioFrame | None:
    """The track's first decodable frame. The file is opened once more, because the stream is at its beginning."""
    assert isinstance(stream.container, InputContainer)
    path = Path(stream.container.name.removeprefix("file:"))
    left = _ATTEMPTS
    with open_untrusted(path, _OPENED_BEFORE) as container, suppress(av.error.FFmpegError):
        again = container.streams[stream.index]
        assert isinstance(again, AudioStream)
        for packet in container.demux(again):
            with suppress(av.error.FFmpegError):
                for frame in again.decode(packet):
                    if frame.sample_rate and frame.samples:
                        return frame
            left -= 1
            if left == 0:
                break
    return None
