"""Admission of uploads: parse options, probe the file, check limits. Shared by REST and gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.errors import InvalidRequest, TooLarge, UnsupportedMedia, UnusableVideo
from jobs.schema import JobOptions, StreamFacts
from jobs.settings import Settings
from media.errors import MediaError, OverLimit, UnsupportedFile
from media.limits import Limits
from media.probe import MediaInfo, probe
from media.spec import output_spec


@dataclass(frozen=True)
class Admission:
    """A video accepted for processing: its options, its properties, and warnings for the user."""

    options: JobOptions
    facts: StreamFacts
    warnings: list[str]


def limits(settings: Settings) -> Limits:
    """The door's limits as the settings have them; the names are the same."""
    return Limits(**{field.name: getattr(settings, field.name) for field in fields(Limits)})


def options_from_text(texts: Mapping[str, str]) -> JobOptions:
    """Parse text fields as job options. Empty fields get defaults. Raises InvalidRequest that lists every error."""
    given: dict[str, object] = {name: text for name, text in texts.items() if text}
    if unknown := sorted(given.keys() - JobOptions.model_fields.keys()):
        known = ", ".join(JobOptions.model_fields)
        raise InvalidRequest(f"unknown option {', '.join(name[:80] for name in unknown)}; valid options: {known}")
    scale = given.get("scale")
    if isinstance(scale, str) and scale.isdecimal():
        given["scale"] = int(scale)  # pydantic does not convert text for a Literal of numbers
    try:
        return JobOptions.model_validate(given)
    except ValidationError as error:
        raise InvalidRequest(one_line(error.errors())) from error


def one_line(findings: Sequence[Any]) -> str:
    """Join pydantic's errors into one line: `crf: Input should be less than or equal to 51; scale: …`."""
    parts = []
    for finding in findings:
        where = ".".join(str(part) for part in finding["loc"] if part not in ("query", "path", "body"))
        message = finding["msg"].removeprefix("Value error, ")
        parts.append(f"{where[:80]}: {message}" if where else message)
    return "; ".join(dict.fromkeys(parts))


def admit(path: Path, options: JobOptions, settings: Settings) -> Admission:
    """Probe a file without decoding it, and check that the job is possible within the limits.

    Raises UnsupportedMedia, UnusableVideo or TooLarge. TooLarge names the setting of the limit.
    """
    allowed = limits(settings)
    with _as_ours():
        info = probe(path, allowed, target=options.container)
        spec = output_spec(
            info, scale=options.scale, height=options.height, codec=options.codec, crf=options.crf, limits=allowed
        )
    return Admission(options, facts(info), [*info.warnings, *spec.warnings])


def facts(info: MediaInfo) -> StreamFacts:
    """What the job document says of a file."""
    video = info.video
    return StreamFacts(
        container=info.container,
        codec=video.codec,
        width=video.width,
        height=video.height,
        frames=video.frames,
        frame_rate=float(video.frame_rate) if video.frame_rate else None,
        duration_seconds=info.duration_seconds,
        pixel_format=video.pixel_format,
        bit_depth=video.bit_depth,
        size_bytes=info.size_bytes,
        audio=[track.codec for track in info.audio],
        subtitles=[track.codec for track in info.subtitles],
    )


@contextmanager
def _as_ours() -> Iterator[None]:
    """Media's errors as those that have a status."""
    try:
        yield
    except UnsupportedFile as error:
        raise UnsupportedMedia(str(error)) from error
    except OverLimit as error:
        raise TooLarge(str(error)) from error
    except MediaError as error:
        raise UnusableVideo(str(error)) from error
