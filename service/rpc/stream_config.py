"""Configuration of a live stream: validate the client's config and fill in every default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final, TypeVar

from jobs.settings import Settings
from media.errors import MediaError
from media.live.codecs import Coding, Format
from media.types import UNSPECIFIED, ColorRange
from model.routing import PRESETS
from service.rpc.errors import invalid
from skipvsr.v1 import upscaler_pb2 as pb

K = TypeVar("K")
T = TypeVar("T")
_DEFAULT_ROUTING: Final = "balanced"
MOST_CHUNK: Final = 64
MOST_LOOKAHEAD: Final = 64
LEAST_SIDE: Final = 8
"""Minimum width and height in pixels, which the networks' image pyramids need."""
_DEFAULT_RATE: Final = Fraction(25)

_FORMATS: Final = {
    pb.FRAME_FORMAT_UNSPECIFIED: Format.RGB24,
    pb.FRAME_FORMAT_RGB24: Format.RGB24,
    pb.FRAME_FORMAT_YUV420P: Format.YUV420P,
    pb.FRAME_FORMAT_NV12: Format.NV12,
    pb.FRAME_FORMAT_JPEG: Format.JPEG,
    pb.FRAME_FORMAT_PNG: Format.PNG,
    pb.FRAME_FORMAT_H264: Format.H264,
    pb.FRAME_FORMAT_HEVC: Format.HEVC,
}
_FORMAT_NUMBERS: Final = {format_: number for number, format_ in _FORMATS.items() if number}
_MATRICES: Final = {
    pb.COLOR_MATRIX_UNSPECIFIED: UNSPECIFIED,
    pb.COLOR_MATRIX_BT601: 6,
    pb.COLOR_MATRIX_BT709: 1,
    pb.COLOR_MATRIX_BT2020: 9,
}
_MATRIX_NUMBERS: Final = {code: number for number, code in _MATRICES.items()}
_RANGES: Final = {
    ColorRange.UNSPECIFIED: pb.COLOR_RANGE_UNSPECIFIED,
    ColorRange.LIMITED: pb.COLOR_RANGE_LIMITED,
    ColorRange.FULL: pb.COLOR_RANGE_FULL,
}
_RANGE_CODES: Final = {number: code for code, number in _RANGES.items()}


@dataclass(frozen=True)
class StreamConfig:
    """A stream's effective configuration."""

    source: Coding
    target: Coding
    model: str
    """Name of a model, never `auto`."""
    scale: int
    """Enlargement of the model."""
    routing: str
    chunk: int = field(compare=False)
    """Frames that are upscaled together: those asked for, or as many as fit into the memory."""
    lookahead: int
    wanted_chunk: int
    """Frames that the client asked for. A resuming client sends the same number again."""
    ahead: int = field(default=0, compare=False)
    """Most chunks to begin before the chunk in work is done."""

    @property
    def latency_frames(self) -> int:
        """Maximum number of further frames needed before a frame is answered."""
        return self.chunk - 1 + self.lookahead

    @property
    def resumable(self) -> bool:
        """Whether another connection can resume the stream. Streams of a video codec cannot resume."""
        return not (self.source.format.is_video or self.target.format.is_video)

    def max_in_flight(self, slack: int) -> int:
        """Maximum frames without a written answer: `slack` more than the chunks that are in work together need."""
        return self.latency_frames + 1 + self.ahead * self.chunk + slack

    def to_message(self) -> pb.StreamConfig:
        """Return the configuration as a message with every field set except `resume`."""
        return pb.StreamConfig(
            width=self.source.width,
            height=self.source.height,
            input=pb.InputFormat(
                format=_FORMAT_NUMBERS[self.source.format], matrix=_matrix(self.source), range=_range(self.source)
            ),
            output=pb.OutputFormat(
                format=_FORMAT_NUMBERS[self.target.format],
                matrix=_matrix(self.target),
                range=_range(self.target),
                quality=self.target.quality,
                crf=self.target.crf,
            ),
            frame_rate=pb.FrameRate(
                numerator=self.source.frame_rate.numerator, denominator=self.source.frame_rate.denominator
            ),
            model=self.model,
            scale=self.scale,
            routing=self.routing,
            lookahead=self.lookahead,
            chunk=self.chunk,
        )


def resolve(config: pb.StreamConfig, settings: Settings, model: str, scale: int) -> StreamConfig:
    """Resolve a client's config. Raises StatusError (INVALID_ARGUMENT) that names the wrong field.

    `model` is the name of the stream's model, never `auto`, and `scale` its enlargement.
    """
    if config.scale not in (0, scale):
        raise invalid("config.scale", f"{model} enlarges by {scale}, not by {config.scale}; leave out model or scale")
    _check_size(config, settings, scale)
    rate = _rate(config)
    source, target = _source(config, rate), _target(config, rate, scale)
    return StreamConfig(
        source=_with_color(source),
        target=_with_color(_with_matrix_of(source, target)),
        model=model,
        scale=scale,
        routing=_routing(config),
        chunk=_between(config.chunk or 1, 1, MOST_CHUNK, "config.chunk"),
        wanted_chunk=config.chunk or 1,
        lookahead=_between(config.lookahead, 0, MOST_LOOKAHEAD, "config.lookahead"),
    )


def _source(config: pb.StreamConfig, rate: Fraction) -> Coding:
    return Coding(
        format=_known(_FORMATS, config.input.format, "config.input.format"),
        width=config.width,
        height=config.height,
        matrix=_known(_MATRICES, config.input.matrix, "config.input.matrix"),
        range=_known(_RANGE_CODES, config.input.range, "config.input.range"),
        frame_rate=rate,
    )


def _target(config: pb.StreamConfig, rate: Fraction, scale: int) -> Coding:
    crf = config.output.crf if config.output.HasField("crf") else 20
    return Coding(
        format=_known(_FORMATS, config.output.format, "config.output.format"),
        width=config.width * scale,
        height=config.height * scale,
        matrix=_known(_MATRICES, config.output.matrix, "config.output.matrix"),
        range=_known(_RANGE_CODES, config.output.range, "config.output.range"),
        quality=_between(config.output.quality or 90, 1, 100, "config.output.quality"),
        crf=_between(crf, 0, 51, "config.output.crf"),
        frame_rate=rate,
    )


def _routing(config: pb.StreamConfig) -> str:
    routing = config.routing or _DEFAULT_ROUTING
    if routing not in PRESETS:
        raise invalid("config.routing", f"unknown routing {routing[:40]!r}; choose {', '.join(PRESETS)}")
    return routing


def _check_size(config: pb.StreamConfig, settings: Settings, scale: int) -> None:
    size = f"{config.width}x{config.height}"
    for name, value in (("width", config.width), ("height", config.height)):
        if value < LEAST_SIDE:
            raise invalid(f"config.{name}", f"frames of {size} are too small; the minimum side is {LEAST_SIDE} pixels")
    pixels = config.width * config.height
    limits = (
        ("input frames", pixels, settings.max_pixels, "SKIPVSR_MAX_PIXELS"),
        ("output frames", pixels * scale**2, settings.max_output_pixels, "SKIPVSR_MAX_OUTPUT_PIXELS"),
    )
    for frames, count, limit, setting in limits:
        if count > limit:
            raise invalid("config.width", f"{size}: {frames} would have {count:,} pixels; {setting} allows {limit:,}")


def _with_matrix_of(source: Coding, target: Coding) -> Coding:
    """Give a target without a matrix the source's matrix, so that colours change as little as possible."""
    if target.matrix == UNSPECIFIED and source.format.has_matrix:
        # The default for an untagged source depends on its height, which differs from the target's.
        return replace(target, matrix=_with_color(source).matrix)
    return target


def _with_color(coding: Coding) -> Coding:
    """Resolve the matrix and range of raw YUV. Untagged packets of video codecs are resolved when they are decoded."""
    if not coding.format.has_matrix or (coding.format.is_video and coding.matrix == UNSPECIFIED and not coding.range):
        return coding
    try:
        color = coding.color
    except MediaError as error:
        raise invalid("config.input.matrix", str(error)) from error
    return replace(coding, matrix=color.matrix, range=color.range)


def _known(table: Mapping[K, T], number: K, field: str) -> T:
    if number not in table:
        raise invalid(field, f"unknown value {number}; see the enum in upscaler.proto")
    return table[number]


def _between(value: int, least: int, most: int, field: str) -> int:
    if not least <= value <= most:
        raise invalid(field, f"{value} is not between {least} and {most}")
    return value


def _rate(config: pb.StreamConfig) -> Fraction:
    if not config.frame_rate.numerator:
        return _DEFAULT_RATE
    rate = Fraction(config.frame_rate.numerator, config.frame_rate.denominator or 1)
    if not Fraction(1, 60) <= rate <= 1000:
        raise invalid("config.frame_rate", f"{float(rate):g} frames per second is not between 1/60 and 1000")
    return rate.limit_denominator(1001)


def _matrix(coding: Coding) -> pb.ColorMatrix:
    return _MATRIX_NUMBERS[coding.matrix] if coding.format.has_matrix else pb.COLOR_MATRIX_UNSPECIFIED


def _range(coding: Coding) -> pb.ColorRange:
    return _RANGES[coding.range] if coding.format.has_matrix else pb.COLOR_RANGE_UNSPECIFIED
