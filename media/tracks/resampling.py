"""Resampling of sound whose format changes in the middle of a track."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import av
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream

_JUMP: Final = Fraction(1, 20)
"""Seconds. A smaller distance from the end of the sound before is the resampler's rounding."""


class FormatFollowingResampler:
    """Resampler to the sample format, channel layout and rate of `encoder`.

    Broadcasts change from stereo to surround, and recordings change their rate. libav's resampler handles a single
    input format. Here, each input format gets a separate resampler. The resulting frames have increasing times in
    samples.
    """

    def __init__(self, encoder: AudioStream) -> None:
        self._encoder = encoder
        self._resampler: AudioResampler | None = None
        self._input: tuple[str, str, int] | None = None
        self._next: int | None = None
        self.failed = 0
        """Frames that libav's resampler refused."""

    def resample(self, frame: AudioFrame, start: Fraction) -> Iterator[AudioFrame]:
        """Resample one frame that starts at a time in seconds.

        If the frame's format is new, first flush the frames of the previous format.
        """
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind != self._input:
            yield from self.flush()
            context = self._encoder.codec_context
            self._resampler = AudioResampler(context.format, context.layout, context.sample_rate)
            self._input = kind
        frame.pts, frame.time_base = round(start * frame.sample_rate), Fraction(1, frame.sample_rate)
        yield from self._resampled(frame)

    def flush(self) -> Iterator[AudioFrame]:
        """Yield the delayed samples."""
        if self._resampler is not None:
            yield from self._resampled(None)
        self._resampler, self._input = None, None

    def _resampled(self, frame: AudioFrame | None) -> Iterator[AudioFrame]:
        assert self._resampler is not None
        try:
            frames = [out for out in self._resampler.resample(frame) if out is not None]
        except (ValueError, av.error.FFmpegError):
            self.failed += 1
            return
        unit = Fraction(1, self._encoder.codec_context.sample_rate)
        for out in frames:  # the encoder expects the time base of its first frame
            time = self._next
            if out.pts is not None and out.time_base:
                time = round(out.pts * out.time_base / unit)
                if self._next is not None and abs(time - self._next) * unit <= _JUMP:
                    time = self._next
            out.pts, out.time_base = time or 0, unit
            self._next = out.pts + out.samples
            yield out
