"""Frames of a camera or a pipe: a source without an end that is known, read as it comes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import Self

import av
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from media.color import conversion as colors
from media.encode.hardware import choose
from media.errors import UnusableVideo
from media.reader import Frame, pixels
from media.spec import OutputSpec
from media.types import Color, ColorRange

PIPE = "-"


class LiveSource:
    """A camera (`/dev/video0`) or the standard input (`-`, any container that FFmpeg reads from a pipe).

    A context manager, and an iterator of frames with 8 bits a sample.

    Raises:
        UnusableVideo: it can't be opened, or has no video.
    """

    def __init__(self, source: str) -> None:
        self._name = "the standard input" if source == PIPE else source
        try:
            opened = av.open(sys.stdin.buffer) if source == PIPE else av.open(source, format="v4l2")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UnusableVideo(f"{self._name} can't be opened as video: {error}") from error
        assert isinstance(opened, InputContainer)
        self._container = opened
        if not opened.streams.video:
            opened.close()
            raise UnusableVideo(f"{self._name} has no video")
        stream = opened.streams.video[0]
        self.width, self.height = stream.codec_context.width, stream.codec_context.height
        self.frame_rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.time_base = stream.time_base or Fraction(1, 90_000)

    def __iter__(self) -> Iterator[Frame]:
        reformatter = VideoReformatter()
        last, begins = -1, None  # clocks of cameras and broadcasts began long ago; the copy begins at zero
        try:
            for frame in self._container.decode(video=0):
                tags = Color(matrix=int(frame.colorspace), range=ColorRange(int(frame.color_range)))
                color = colors.effective(tags, pixel_format=frame.format.name, height=frame.height)
                rgb = colors.to_rgb(frame, color, reformatter, size=(self.width, self.height))
                if begins is None and frame.pts is not None:
                    begins = frame.pts - (last + 1)
                pts = last + 1 if frame.pts is None or begins is None else frame.pts - begins
                if pts > last:  # a camera's clock may stumble
                    last = pts
                    yield Frame(pixels(rgb), pts, self.time_base)
        except av.error.FFmpegError as error:
            raise UnusableVideo(f"{self._name} broke off: {error}") from error

    def output(self, *, codec: str, crf: int) -> OutputSpec:
        """What the upscaled copy is to be."""
        color = colors.effective(Color(), pixel_format="yuv420p", height=self.height)
        encoder = choose(codec, "software", 4 * self.width, 4 * self.height)
        return OutputSpec(
            width=4 * self.width,
            height=4 * self.height,
            codec=codec,
            encoder=encoder.name,
            crf=crf,
            pixel_format=encoder.pixel_format,
            frame_rate=self.frame_rate,
            time_base=self.time_base,
            sample_aspect_ratio=Fraction(1),
            color=color,
            display_matrix=None,
            mastering_display=None,
            content_light=None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()
