"""Choosing the output's size, codec and colours from the source's facts and the user's options."""

from __future__ import annotations

from fractions import Fraction
from typing import Final, NamedTuple

from media.color.tags import resolved
from media.demux.rate import DEFAULT_RATE
from media.encode.hardware import Encoder, choose
from media.errors import OverLimit, UnusableVideo
from media.limits import DEFAULT_LIMITS, Limits
from media.orientation import Matrix, decomposed, scaled
from media.types import Color, MediaInfo, OutputSpec, VideoInfo

__all__ = [
    "DEFAULT_SCALE",
    "OutputSpec",
    "enlargement",
    "estimated_bytes",
    "expected_bytes",
    "output_spec",
    "plain_spec",
]

DEFAULT_SCALE: Final = 4
"""Enlargement by a model of unknown scale."""
AUTO_LINES: Final = 2160
"""Most pixels of the shorter side of an output without `scale` or `height`."""
MOST_H264: Final = 4096
"""Most pixels of a side in H.264 for hardware decoders (level 5.2) and NVENC. HEVC reaches 8192."""
_COMMON_DEPTH: Final = 8
"""Bits a sample of H.264 that every device decodes."""
_ENLARGED: Final = 2
"""`OutputSpec.enlarged` from this factor on."""
_SMALLEST: Final = {"h264": 2, "hevc": 16, "av1": 4}
"""Smallest side, in pixels, that each codec's encoder accepts."""


def output_spec(
    info: MediaInfo,
    *,
    scale: int | None = None,
    height: int | None = None,
    model_scale: int | None = None,
    codec: str = "auto",
    crf: int = 18,
    hardware: str = "software",
    limits: Limits = DEFAULT_LIMITS,
) -> OutputSpec:
    """Choose the output for a source. Its container is `info.target`.

    Args:
        scale: enlargement. Without `scale` and `height`: the model's, or less for an output of `AUTO_LINES` at most.
        height: height in pixels, instead of `scale`; the width follows.
        model_scale: enlargement by the model; `DEFAULT_SCALE` if unknown.
        codec: h264, hevc, av1, or auto: av1 for webm, hevc for more than 8 bits a sample or `MOST_H264` pixels, else
            h264.
        hardware: software, nvenc, vaapi or auto; see `media.encode.hardware.choose`.

    Raises:
        OverLimit: an output frame has more pixels than allowed.
        UnusableVideo: swscale can't convert the colours, or the frames are too small for the codec.
    """
    video = info.video
    natural = model_scale or DEFAULT_SCALE
    auto = scale is None and height is None
    factor = enlargement(video.width, video.height, scale=scale, wanted_height=height, natural=natural)
    width, height = _even(video.width * factor), _even(video.height * factor)
    automatic = codec == "auto"
    if automatic:
        codec = _best_codec(info, (width, height))
    display = _display(info, factor, (width, height))
    shape, warnings = display.sample_aspect_ratio, display.warnings
    if auto and factor != natural:
        warnings += (_auto_warning(video, natural, (width, height)),)
    if shape != 1 and codec == "av1" and info.target in ("mkv", "webm"):
        # AV1 has no sample aspect ratio, and PyAV can't set the one of libav's Matroska muxer.
        width, shape = _even(video.width * factor * shape), Fraction(1)
        warnings += (f"The pixels are not square, which AV1 in {info.target} can't store; the width was scaled.",)
    warnings += _codec_warnings(codec, video, (width, height), automatic=automatic)
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
        enlarged=factor >= _ENLARGED,
    )


def plain_spec(codec: str, encoder: Encoder, width: int, height: int) -> OutputSpec:
    """Return the specification of plain frames, 25 a second, for trials of an encoder."""
    rate = Fraction(25)
    return OutputSpec(
        width=width,
        height=height,
        codec=codec,
        encoder=encoder.name,
        crf=18,
        pixel_format=encoder.pixel_format,
        frame_rate=rate,
        encoder_rate=rate,
        time_base=1 / rate,
        sample_aspect_ratio=Fraction(1),
        color=resolved(Color(), pixel_format=encoder.pixel_format, height=height),
        display_matrix=None,
        mastering_display=None,
        content_light=None,
    )


def enlargement(width: int, height: int, *, scale: int | None, wanted_height: int | None, natural: int) -> Fraction:
    """Return the enlargement of a source of `width` × `height` pixels.

    Args:
        scale: wanted enlargement.
        wanted_height: wanted height in pixels, instead of `scale`.
        natural: enlargement without both, or less for an output of `AUTO_LINES` at most.
    """
    if wanted_height is not None:
        return Fraction(wanted_height, height)
    return Fraction(scale) if scale is not None else _auto_factor(min(width, height), natural)


def _auto_factor(side: int, natural: int) -> Fraction:
    """The enlargement to at most `AUTO_LINES`: by a whole number if one fits, and never a reduction."""
    whole = next((factor for factor in range(natural, 1, -1) if factor * side <= AUTO_LINES), None)
    return Fraction(whole) if whole else min(Fraction(natural), max(Fraction(1), Fraction(AUTO_LINES, side)))


def _auto_warning(video: VideoInfo, natural: int, size: tuple[int, int]) -> str:
    limit = f"the automatic size has at most {AUTO_LINES} pixels on the shorter side"
    if size == (video.width, video.height):
        limit = f"the automatic size enlarges no video of {AUTO_LINES} lines or more"
    return f"The result has {size[0]}×{size[1]} pixels: {limit}. For a larger result, choose the scale {natural}."


def estimated_bytes(spec: OutputSpec, frames: int) -> int:
    """Cautious estimate of the size of encoded frames: 0.2 bits per pixel at CRF 18, half as much per 6 CRF steps."""
    bits = Fraction(2, 10) * spec.width * spec.height * frames
    return int(bits / 8 * Fraction(2) ** round((18 - spec.crf) / 6))


def expected_bytes(spec: OutputSpec, frames: int, bits: float | None) -> int:
    """Estimate of the size of a result, from measured `bits` per pixel at CRF 18; cautious without a measurement."""
    if bits is None:
        return estimated_bytes(spec, frames)
    return round(bits * spec.width * spec.height * frames / 8 * 2 ** ((18 - spec.crf) / 6))


def _best_codec(info: MediaInfo, size: tuple[int, int]) -> str:
    """The codec that most devices play. Few decode H.264 with more than 8 bits or `MOST_H264` pixels."""
    if info.target == "webm":
        return "av1"
    special = info.video.bit_depth > _COMMON_DEPTH or max(size) > MOST_H264
    return "hevc" if special and min(size) >= _SMALLEST["hevc"] else "h264"


def _codec_warnings(codec: str, video: VideoInfo, size: tuple[int, int], *, automatic: bool) -> tuple[str, ...]:
    """Facts about a codec; `automatic` if the user has not chosen the codec."""
    large, deep = max(size) > MOST_H264, video.bit_depth > _COMMON_DEPTH
    if automatic and large and not deep and codec == "hevc":
        return (f"The result is HEVC: few devices play H.264 with more than {MOST_H264} pixels a side.",)
    if codec != "h264":
        return ()
    out: tuple[str, ...] = ()
    if deep:
        out += ("H.264 with 10 bits a sample (High 10) plays on few devices; HEVC plays on most.",)
    if large:
        out += (f"H.264 with more than {MOST_H264} pixels a side plays on few devices; HEVC plays on most.",)
    return out


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
