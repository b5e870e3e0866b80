"""What the output is to be, decided once from the source's facts and the user's wishes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from media import color as colors
from media.errors import OverLimit
from media.info import Color, MediaInfo
from media.limits import DEFAULT_LIMITS, Limits

NETWORK_SCALE = 4
"""The network's frames are this much larger than the source's, whatever the output's size is."""


@dataclass(frozen=True)
class OutputSpec:
    """The output's video stream and container; all segments of a job share one."""

    width: int
    height: int
    codec: str
    """h264, hevc or av1."""
    encoder: str
    """libav's name of the encoder that is used, e.g. libx264."""
    crf: int
    pixel_format: str
    frame_rate: Fraction
    """Nominal; frames keep their own times."""
    time_base: Fraction
    """Unit of the `pts` given to `SegmentWriter.write`."""
    sample_aspect_ratio: Fraction
    color: Color
    display_matrix: tuple[int, ...] | None
    mastering_display: bytes | None
    content_light: tuple[int, int] | None
    container: str = "mp4"

    @property
    def depth(self) -> int:
        """Bits of one sample."""
        return colors.bit_depth(self.pixel_format)


def output_spec(
    info: MediaInfo,
    *,
    scale: int | None = None,
    height: int | None = None,
    codec: str = "h264",
    crf: int = 18,
    container: str = "mp4",
    limits: Limits = DEFAULT_LIMITS,
) -> OutputSpec:
    """The output for a source, ×4 unless `scale` or `height` (pixels) says otherwise.

    Raises:
        OverLimit: the output's frames would have more pixels than allowed.
        UnusableVideo: the colours can't be converted.
    """
    video = info.video
    factor = Fraction(scale or NETWORK_SCALE) if height is None else Fraction(height, video.height)
    width, height = _even(video.width * factor), _even(video.height * factor)
    if width * height > limits.max_output_pixels:
        raise OverLimit(
            f"the output ({width}×{height}) would have {width * height} pixels a frame, more than the "
            f"{limits.max_output_pixels} that SKIPVSR_MAX_OUTPUT_PIXELS allows; choose a smaller scale",
            setting="max_output_pixels",
        )
    return OutputSpec(
        width=width,
        height=height,
        codec=codec,
        encoder=_ENCODERS[codec],
        crf=crf,
        pixel_format="yuv420p" if video.bit_depth <= 8 else "yuv420p10le",
        frame_rate=video.frame_rate or Fraction(25),
        time_base=video.time_base,
        sample_aspect_ratio=video.sample_aspect_ratio,
        color=colors.effective(video.color, pixel_format=video.pixel_format, height=video.height),
        display_matrix=video.display_matrix,
        mastering_display=video.mastering_display,
        content_light=video.content_light,
        container=container,
    )


_ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}


def _even(size: Fraction | int) -> int:
    return max(2, 2 * round(Fraction(size) / 2))
