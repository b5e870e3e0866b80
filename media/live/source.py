"""Frames of a camera or a pipe: a live source of unknown length."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType
from typing import Self

import av
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from media.color.pixels import pixels
from media.color.tags import resolved
from media.color.yuv import to_rgb
from media.encode.hardware import choose
from media.errors import UnusableVideo
from media.reader import Frame
from media.spec import DEFAULT_SCALE
from media.types import Color, ColorRange, OutputSpec

PIPE = "-"


class LiveSource:
    """Iterator over the frames (8 bits a sample) of a live source. A context manager.

    Args:
        source: a camera (`/dev/video0`), or `-` for standard input in any container that libav reads from a pipe.

    Raises:
        UnusableVideo: the source can't be opened, or has no video.
    """

    def __init__(self, source: str) -> None:
        self._name = "Standard input" if source == PIPE else source
        try:
            opened = av.open(sys.stdin.buffer) if source == PIPE else av.open(source, format="v4l2")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise UnusableVideo(f"{self._name} can't be opened as a video: {error}") from error
        assert isinstance(opened, InputContainer)
        self._container = opened
        if not opened.streams.video:
            opened.close()
            raise UnusableVideo(f"{self._name} has no video track.")
        stream = opened.streams.video[0]
        self.width, self.height = stream.codec_context.width, stream.codec_context.height
        self.frame_rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.time_base = stream.time_base or Fraction(1, 90_000)

    def __iter__(self) -> Iterator[Frame]:
        reformatter = VideoReformatter()
        last, begins = -1, None  # clocks of cameras and broadcasts start anywhere; the output starts at zero
        try:
            for frame in self._container.decode(video=0):
                tags = Color(matrix=int(frame.colorspace), range=ColorRange(int(frame.color_range)))
                color = resolved(tags, pixel_format=frame.format.name, height=frame.height)
                rgb = to_rgb(frame, color, reformatter, size=(self.width, self.height))
                if begins is None and frame.pts is not None:
                    begins = frame.pts - (last + 1)
                pts = last + 1 if frame.pts is None or begins is None else frame.pts - begins
                if pts > last:  # a camera's clock can go back
                    last = pts
                    yield Frame(pixels(rgb), pts, self.time_base)
        except av.error.FFmpegError as error:
            raise UnusableVideo(f"{self._name} ended with an error: {error}") from error

    def output(self, *, codec: str, crf: int) -> OutputSpec:
        """The output of upscaling this source."""
        color = resolved(Color(), pixel_format="yuv420p", height=self.height)
        width, height = DEFAULT_SCALE * self.width, DEFAULT_SCALE * self.height
        encoder = choose(codec, "software", width, height)
        return OutputSpec(
            width=width,
            height=height,
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
