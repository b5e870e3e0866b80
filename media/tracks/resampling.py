"""Sound in the form that an encoder takes, whatever its source changes to on the way."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream


class Resampled:
    """Frames of sound in the format, layout and rate of `encoder`.

    A resampler is made for one kind of frame, and libav's own inside an encoder refuses others; broadcasts change
    from stereo to surround, and recordings from one rate to another. Here each kind gets a resampler of its own.
    """

    def __init__(self, encoder: AudioStream) -> None:
        self._encoder = encoder
        self._resampler: AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None

    def take(self, frame: AudioFrame) -> Iterator[AudioFrame]:
        """What comes of one frame, and of those before where it is of another kind."""
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind != self._kind:
            yield from self.rest()
            context = self._encoder.codec_context
            self._resampler = AudioResampler(context.format, context.layout, context.sample_rate)
            self._kind = kind
        yield from self._through(frame)

    def rest(self) -> Iterator[AudioFrame]:
        """What is still held back."""
        if self._resampler is not None:
            yield from self._through(None)
        self._resampler, self._kind = None, None

    def _through(self, frame: AudioFrame | None) -> list[AudioFrame]:
        assert self._resampler is not None
        try:
            frames = [out for out in self._resampler.resample(frame) if out is not None]
        except (ValueError, av.error.FFmpegError):
            return []
        unit = Fraction(1, self._encoder.codec_context.sample_rate)
        for out in frames:  # the encoder keeps to the unit of the first, whichever resampler that came from
            if out.pts is not None and out.time_base:
                out.pts, out.time_base = round(out.pts * out.time_base / unit), unit
        return frames
