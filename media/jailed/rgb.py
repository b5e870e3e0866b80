"""Conversion of decoded frames to RGB frames of one size and format."""

from __future__ import annotations

from fractions import Fraction

from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from media.color.alpha import FLATTENED, WhiteGround, has_alpha, is_transparent, planar_format
from media.color.crop import Crop, Cropper
from media.color.fit import Fitter
from media.color.pixel_formats import bit_depth, rgb_format
from media.color.tags import resolved
from media.color.yuv import to_rgb
from media.ledger import TrackLedger
from media.limits import Limits
from media.types import Canvas, Color, ColorRange


class RgbConverter:
    """Converter by the stream's matrix and range. The first frame determines the bit depth of all frames.

    Args:
        limits: bound of the frame size.
        track: counts frames that are scaled.
        crop: the part of the frames that is shown. None: all of it.
        canvas: size and shape of all frames. None: the first frame's.
        stream: the frames' stream.
    """

    def __init__(
        self, limits: Limits, track: TrackLedger, crop: Crop | None, canvas: Canvas | None, stream: VideoStream
    ) -> None:
        self._limits, self._track, self._stream = limits, track, stream
        self._reformatter = VideoReformatter()
        self._last_reformatter = VideoReformatter()
        self._on_white = WhiteGround()
        self._crop = Cropper(crop) if crop else None
        self._canvas, self._fit = canvas, Fitter(canvas) if canvas else None
        self._size: tuple[int, int] | None = None
        self._shape = Fraction(1)
        self._format = ""

    def observe(self, frame: VideoFrame) -> None:
        """Check and record a frame's size. Call the method for every frame, even for frames without conversion."""
        self._limits.check("max_pixels", frame.width * frame.height, f"a frame ({frame.width}×{frame.height})")
        first, size = self._size is None, (frame.width, frame.height)
        if first:
            self._format = rgb_format(bit_depth(frame.format.name))
        if size != self._size:
            self._size = size
            own = None if first else self._stream.codec_context.sample_aspect_ratio
            self._shape = own or self._stream.sample_aspect_ratio or Fraction(1)
        shown = self._shown(frame)
        if self._canvas is None:
            self._canvas = Canvas(*shown, self._shape)
            self._fit = Fitter(self._canvas)
        self._track.resized += shown != (self._canvas.width, self._canvas.height)

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Convert an observed frame to rgb24 or rgb48le of the canvas's size."""
        assert self._canvas is not None
        assert self._fit is not None
        color = resolved(
            Color(matrix=int(frame.colorspace), range=ColorRange(frame.color_range % 3)),
            pixel_format=frame.format.name,
            height=frame.height,
        )
        coarse = self._crop.coarse(frame) if self._crop else frame
        rgb = self._converted(coarse, color, (coarse.width, coarse.height))
        if self._crop and self._crop.applies(frame):
            rgb = self._crop.fine(rgb)
        if (rgb.width, rgb.height) == (self._canvas.width, self._canvas.height):
            return rgb
        return self._fit(rgb, self._shape)

    def _shown(self, frame: VideoFrame) -> tuple[int, int]:
        """Size of the part of a frame that is shown."""
        return self._crop.shown(frame) if self._crop else (frame.width, frame.height)

    def _converted(self, frame: VideoFrame, color: Color, size: tuple[int, int]) -> VideoFrame:
        if not has_alpha(frame.format.name):
            return to_rgb(frame, color, self._reformatter, size=size, pixel_format=self._format)
        frame = to_rgb(frame, color, self._reformatter, size=size, pixel_format=planar_format(self._format))
        if is_transparent(frame):
            frame = self._on_white(frame)
            self._track.dropped_metadata = (*dict.fromkeys((*self._track.dropped_metadata, FLATTENED)),)
        return to_rgb(frame, color, self._last_reformatter, pixel_format=self._format)
