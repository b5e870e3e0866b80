"""Choosing the output's size, codec and colours from the source's facts and the user's options."""

from __future__ import annotations

from fractions import Fraction
from typing import Final, NamedTuple

from media.color.tags import resolved
from media.demux.rate import DEFAULT_RATE
from media.encode.hardware import choose
from media.errors import OverLimit, UnusableVideo
from media.limits import DEFAULT_LIMITS, Limits
from media.orientation import Matrix, decomposed, scaled
from media.types import MediaInfo, OutputSpec

__all__ = ["DEFAULT_SCALE", "OutputSpec", "output_spec"]

DEFAULT_SCALE: Final = 4
"""Enlargement of an output without `scale` or `height`."""
_COMMON_DEPTH: Final = 8
"""Bits a sample of H.264 that every device decodes."""
_SMALLEST: Final = {"h264": 2, "hevc": 16, "av1": 4}
"""Smallest side, in pixels, that each codec's encoder accepts."""


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
    """Choose the output for a source. Its container is `info.target`.

    Args:
        scale: enlargement; `DEFAULT_SCALE` by default.
        height: height in pixels, instead of `scale`; the width follows.
        codec: h264, hevc, av1, or auto: av1 for webm, hevc for more than 8 bits a sample, else h264.
        hardware: software, nvenc, vaapi or auto; see `media.encode.hardware.choose`.

    Raises:
        OverLimit: an output frame has more pixels than allowed.
        UnusableVideo: swscale can't convert the colours, or the frames are too small for the codec.
    """
    video = info.video
    factor = Fraction(scale or DEFAULT_SCALE) if height is None else Fraction(height, video.height)
    width, height = _even(video.width * factor), _even(video.height * factor)
    if codec == "auto":
        codec = _best_codec(info, min(width, height))
    display = _display(info, factor, (width, height))
    shape, warnings = display.sample_aspect_ratio, display.warnings
    if shape != 1 and codec == "av1" and info.target in ("mkv", "webm"):
        # AV1 has no sample aspect ratio, and PyAV can't set the one of libav's Matroska muxer.
        width, shape = _even(video.width * factor * shape), Fraction(1)
        warnings += (f"The pixels are not square, which AV1 in {info.target} can't store; the width was scaled.",)
    if codec == "h264" and video.bit_depth > _COMMON_DEPTH:
        warnings += ("H.264 with 10 bits a sample (High 10) plays on few devices; HEVC plays on most.",)
    _check_size(width, height, codec, limits)
    encoder = choose(codec, hardware, width, height, deep=video.bit_depth > 8)
    return OutputSpec(
        width=width,
        height=height,
        codec=codec,
        encoder=encoder.name,
        crf=crf,
        pixel_format=encoder.pixel_format,
        frame_rate=(video.frame_rate or DEFAULT_RATE) * video.frames_of_each,
        encoder_rate=video.nominal_rate and video.nominal_rate * video.frames_of_each,
        time_base=video.output_time_base,
        sample_aspect_ratio=shape,
        color=resolved(video.color, pixel_format=video.pixel_format, height=video.height),
        display_matrix=display.matrix,
        flip=display.flip,
        mastering_display=video.mastering_display,
        content_light=video.content_light,
        container=info.target,
        warnings=warnings,
    )


def _best_codec(info: MediaInfo, smallest_side: int) -> str:
    """The codec that most devices play. Few decode H.264 with more than 8 bits."""
    if info.target == "webm":
        return "av1"
    return "hevc" if info.video.bit_depth > _COMMON_DEPTH and smallest_side >= _SMALLEST["hevc"] else "h264"


class _Display(NamedTuple):
    """How a player shows the stored pixels."""

    matrix: Matrix | None
    flip: str
    sample_aspect_ratio: Fraction
    warnings: tuple[str, ...] = ()


def _display(info: MediaInfo, factor: Fraction, size: tuple[int, int]) -> _Display:
    """Carry the source's display over to pictures of `size`, within the limits of the container."""
    video = info.video
    matrix, shape = video.display_matrix, video.sample_aspect_ratio
    if matrix is None:
        return _Display(None, "", shape)
    if info.target not in ("mkv", "webm"):
        before, after = (video.height, video.width * shape), (size[1], size[0] * shape)
        return _Display(scaled(matrix, before, after, factor), "", shape)
    parts = decomposed(matrix)
    if parts is None:
        return _Display(None, "", shape, (f"The picture is shown skewed, which {info.target} can't hold.",))
    return _Display(parts.matrix, parts.flip, shape * parts.stretch)


def _check_size(width: int, height: int, codec: str, limits: Limits) -> None:
    if width * height > limits.max_output_pixels:
        raise OverLimit(
            f"An output frame ({width}×{height}) has {width * height} pixels; the limit is "
            f"{limits.max_output_pixels} (SKIPVSR_MAX_OUTPUT_PIXELS). Choose a smaller scale.",
            setting="max_output_pixels",
        )
    if min(width, height) < _SMALLEST[codec]:
        raise UnusableVideo(f"The output ({width}×{height}) is too small for {codec}. Choose h264 or a larger size.")


def _even(size: Fraction | int) -> int:
    return max(2, 2 * round(Fraction(size) / 2))
