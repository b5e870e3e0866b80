"""Conversion of decoded frames to RGB frames of one size and format."""

from __future__ import annotations

from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from media.color.alpha import FLATTENED, WhiteGround, has_alpha, is_transparent, planar_format
from media.color.crop import Crop, Cropper
from media.color.pixel_formats import bit_depth, rgb_format
from media.color.tags import resolved
from media.color.yuv import to_rgb
from media.ledger import TrackLedger
from media.limits import Limits
from media.types import Color, ColorRange


class RgbConverter:
    """Converter by the stream's matrix and range. The first frame determines size and bit depth of all frames.

    Args:
        limits: bound of the frame size.
        track: counts frames that are scaled.
        crop: the part of the frames that is shown. None: all of it.
    """

    def __init__(self, limits: Limits, track: TrackLedger, crop: Crop | None) -> None:
        self._limits, self._track = limits, track
        self._reformatter = VideoReformatter()
        self._last_reformatter = VideoReformatter()
        self._on_white = WhiteGround()
        self._crop = Cropper(crop) if crop else None
        self._size: tuple[int, int] | None = None
        self._format = ""

    def observe(self, frame: VideoFrame) -> None:
        """Check and record a frame's size. Call for every frame, also for those that are not converted."""
        self._limits.check("max_pixels", frame.width * frame.height, f"a frame ({frame.width}×{frame.height})")
        if self._size is None:
            self._size = frame.width, frame.height
            self._format = rgb_format(bit_depth(frame.format.name))
        self._track.resized += (frame.width, frame.height) != self._size

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        """Convert an observed frame to rgb24 or rgb48le, scaled to the first frame's size."""
        assert self._size is not None
        color = resolved(
            Color(matrix=int(frame.colorspace), range=ColorRange(frame.color_range % 3)),
            pixel_format=frame.format.name,
            height=self._size[1],
        )
        if self._crop is None:
            return self._converted(frame, color, self._size)
        shown = self._crop.coarse(frame)
        size = self._size if shown is frame else (shown.width, shown.height)
        return self._crop.fine(self._converted(shown, color, size))

    def _converted(self, frame: VideoFrame, color: Color, size: tuple[int, int]) -> VideoFrame:
        if not has_alpha(frame.format.name):
            return to_rgb(frame, color, self._reformatter, size=size, pixel_format=self._format)
        frame = to_rgb(frame, color, self._reformatter, size=size, pixel_format=planar_format(self._format))
        if is_transparent(frame):
            frame = self._on_white(frame)
            self._track.dropped_metadata = (*dict.fromkeys((*self._track.dropped_metadata, FLATTENED)),)
        return to_rgb(frame, color, self._last_reformatter, pixel_format=self._format)
