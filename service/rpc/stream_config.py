"""From the config that a client sends to what the server does: every choice made, every limit checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, TypeVar

from jobs.settings import Settings
from media.errors import MediaError
from media.live.codecs import Coding, Format
from media.types import UNSPECIFIED, ColorRange
from model.network.basicvsr import DEFAULT_SCALE as SCALE
from model.routing import PRESETS
from service.rpc.errors import invalid
from skipvsr.v1 import upscaler_pb2 as pb

K = TypeVar("K")
T = TypeVar("T")
_DEFAULT_ROUTING: Final = "balanced"
MOST_CHUNK: Final = 64
MOST_LOOKAHEAD: Final = 64
LEAST_SIDE: Final = 8
"""Pixels; below, there is no picture to speak of, and the networks' pyramids have nothing to work on."""
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
class Plan:
    """What is done with a stream."""

    source: Coding
    target: Coding
    model: str
    """A name that is not `auto`."""
    routing: str
    chunk: int
    lookahead: int

    @property
    def latency_frames(self) -> int:
        """Frames that must have come after one before it is answered, at most."""
        return self.chunk - 1 + self.lookahead

    @property
    def resumable(self) -> bool:
        """Whether the stream can go on on another connection: coders with a memory can't."""
        return not (self.source.format.is_video or self.target.format.is_video)

    def max_in_flight(self, slack: int) -> int:
        """Most frames that may wait for their answer to be taken; fewer than the latency would never be answered."""
        return self.latency_frames + 1 + slack

    def document(self) -> pb.StreamConfig:
        """The plan as a config with every field set."""
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
            routing=self.routing,
            lookahead=self.lookahead,
            chunk=self.chunk,
        )


def plan(config: pb.StreamConfig, settings: Settings, default_model: str) -> Plan:
    """Decide what is done. Raises StreamError (INVALID_ARGUMENT) that names the field."""
    _check_size(config, settings)
    rate = _rate(config)
    source = Coding(
        format=_known(_FORMATS, config.input.format, "config.input.format"),
        width=config.width,
        height=config.height,
        matrix=_known(_MATRICES, config.input.matrix, "config.input.matrix"),
        range=_known(_RANGE_CODES, config.input.range, "config.input.range"),
        frame_rate=rate,
    )
    target = Coding(
        format=_known(_FORMATS, config.output.format, "config.output.format"),
        width=config.width * SCALE,
        height=config.height * SCALE,
        matrix=_known(_MATRICES, config.output.matrix, "config.output.matrix"),
        range=_known(_RANGE_CODES, config.output.range, "config.output.range"),
        quality=_between(config.output.quality or 90, 1, 100, "config.output.quality"),
        crf=_between(config.output.crf if config.output.HasField("crf") else 20, 0, 51, "config.output.crf"),
        frame_rate=rate,
    )
    routing = config.routing or _DEFAULT_ROUTING
    if routing not in PRESETS:
        raise invalid("config.routing", f"there is no {routing[:40]!r}; there are {', '.join(PRESETS)}")
    return Plan(
        source=_with_color(source),
        target=_with_color(_like(source, target)),
        model=default_model if config.model in ("", "auto") else config.model,
        routing=routing,
        chunk=_between(config.chunk or 1, 1, MOST_CHUNK, "config.chunk"),
        lookahead=_between(config.lookahead, 0, MOST_LOOKAHEAD, "config.lookahead"),
    )


def _check_size(config: pb.StreamConfig, settings: Settings) -> None:
    width, height = config.width, config.height
    for name, value in (("width", width), ("height", height)):
        if value < LEAST_SIDE:
            raise invalid(f"config.{name}", f"frames of {width}x{height} are too small; the least is {LEAST_SIDE}")
    limits = (
        (width * height, settings.max_pixels, "SKIPVSR_MAX_PIXELS"),
        (width * height * SCALE**2, settings.max_output_pixels, "SKIPVSR_MAX_OUTPUT_PIXELS"),
    )
    for pixels, limit, setting in limits:
        if pixels > limit:
            what = "frames" if setting.endswith("MAX_PIXELS") else "answers"
            raise invalid(
                "config.width", f"{what} of {width}x{height} have {pixels:,} pixels; {setting} allows {limit:,}"
            )


def _like(source: Coding, target: Coding) -> Coding:
    """The target with the source's matrix where it has none of its own: colours change as little as can be."""
    if target.matrix == UNSPECIFIED and source.format.has_matrix:
        # An untagged source's is what a player assumes at the source's size; at the target's it would be another.
        return replace(target, matrix=_with_color(source).matrix)
    return target


def _with_color(coding: Coding) -> Coding:
    """Raw YUV with its matrix and range decided; packets' own tags decide for theirs, once they come."""
    if not coding.format.has_matrix or (coding.format.is_video and coding.matrix == UNSPECIFIED and not coding.range):
        return coding
    try:
        color = coding.color
    except MediaError as error:
        raise invalid("config.input.matrix", str(error)) from error
    return replace(coding, matrix=color.matrix, range=color.range)


def _known(table: Mapping[K, T], number: K, field: str) -> T:
    if number not in table:
        raise invalid(field, f"there is no number {number}; see the enum in upscaler.proto")
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
        raise invalid("config.frame_rate", f"{float(rate):g} frames a second are not between 1/60 and 1000")
    return rate.limit_denominator(1001)


def _matrix(coding: Coding) -> pb.ColorMatrix:
    return _MATRIX_NUMBERS[coding.matrix] if coding.format.has_matrix else pb.COLOR_MATRIX_UNSPECIFIED


def _range(coding: Coding) -> pb.ColorRange:
    return _RANGES[coding.range] if coding.format.has_matrix else pb.COLOR_RANGE_UNSPECIFIED
