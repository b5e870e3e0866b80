"""What the output is to be, decided once from the source's facts and the user's wishes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from media.color import conversion as colors
from media.encode.hardware import choose
from media.errors import OverLimit, UnusableVideo
from media.limits import DEFAULT_LIMITS, Limits
from media.types import Color, MediaInfo

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
    warnings: tuple[str, ...] = ()
    """What of the picture is not as in the source."""

    @property
    def depth(self) -> int:
        """Bits of one sample."""
        return colors.bit_depth(self.pixel_format)


def output_spec(
    info: MediaInfo,
    *,
    scale: int | None = None,
    height: int | None = None,
    codec: str = "auto",
    crf: int = 18,
    hardware: str = "software",
    limits: Limits = DEFAULT_LIMITS,
) -> OutputSpec:
    """The output for a source in its `target` container, ×4 unless `scale` or `height` (pixels) says otherwise.

    Args:
        codec: h264, hevc, av1, or auto: h264 where the container holds it, else av1.
        hardware: software, nvenc, vaapi or auto; see `media.encode.hardware.choose`.

    Raises:
        OverLimit: the output's frames would have more pixels than allowed.
        UnusableVideo: the colours can't be converted, or the codec has no frames that small.
    """
    if codec == "auto":
        codec = "av1" if info.target == "webm" else "h264"
    video = info.video
    factor = Fraction(scale or NETWORK_SCALE) if height is None else Fraction(height, video.height)
    width, height = _even(video.width * factor), _even(video.height * factor)
    shape = video.sample_aspect_ratio
    warnings: tuple[str, ...] = ()
    if shape != 1 and codec == "av1" and info.target in ("mkv", "webm"):
        # AV1 itself has no word for it, and what libav's Matroska muxer wants to know can't be told it from here.
        width, shape = _even(video.width * factor * shape), Fraction(1)
        warnings = (f"its pixels are not square, which AV1 in {info.target} can't say: the width is scaled instead",)
    if width * height > limits.max_output_pixels:
        raise OverLimit(
            f"the output ({width}×{height}) would have {width * height} pixels a frame, more than the "
            f"{limits.max_output_pixels} that SKIPVSR_MAX_OUTPUT_PIXELS allows; choose a smaller scale",
            setting="max_output_pixels",
        )
    if min(width, height) < _SMALLEST[codec]:
        raise UnusableVideo(f"the output ({width}×{height}) is too small for {codec}; choose h264 or a larger size")
    encoder = choose(codec, hardware, width, height, deep=video.bit_depth > 8)
    return OutputSpec(
        width=width,
        height=height,
        codec=codec,
        encoder=encoder.name,
        crf=crf,
        pixel_format=encoder.pixel_format,
        frame_rate=video.frame_rate or Fraction(25),
        time_base=video.time_base,
        sample_aspect_ratio=shape,
        color=colors.effective(video.color, pixel_format=video.pixel_format, height=video.height),
        display_matrix=video.display_matrix,
        mastering_display=video.mastering_display,
        content_light=video.content_light,
        container=info.target,
        warnings=warnings,
    )


_SMALLEST = {"h264": 2, "hevc": 16, "av1": 4}
"""Fewest pixels of a side that the encoders take."""


def _even(size: Fraction | int) -> int:
    return max(2, 2 * round(Fraction(size) / 2))
