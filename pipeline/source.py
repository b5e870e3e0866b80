"""Source files at the border between jobs and media: limits, stream facts, and errors for the user.

The service imports this module without torch. The module must therefore import neither `model` nor its siblings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import media.errors
from jobs.errors import DecoderFailed, HeaderNotSent, JobFailed, SkipVsrError, TooLarge, UnsupportedMedia, UnusableVideo
from jobs.schema import JobOptions, StreamFacts
from jobs.settings import Settings
from media.errors import DecoderCrashed, HeaderElsewhere, MediaError, OverLimit, UnsupportedFile, Unwritable
from media.limits import Limits
from media.probe import MediaInfo, probe
from media.spec import OutputSpec


def media_limits(settings: Settings) -> Limits:
    """Copy the limits on source files from the settings; both classes use the same field names."""
    return Limits(**{field.name: getattr(settings, field.name) for field in fields(Limits)})


def probe_source(source: Path, options: JobOptions, limits: Limits, hole: tuple[int, int] | None = None) -> MediaInfo:
    """Inspect the source of a job; `hole` as in `media.probe.probe`. Raises MediaError and OSError."""
    return probe(source, limits, target=options.container, fields=options.deinterlace == "field", hole=hole)


def stream_facts(
    info: MediaInfo,
    spec: OutputSpec | None = None,
    *,
    frames: int | None = None,
    frame_rate: Fraction | None = None,
) -> StreamFacts:
    """Describe a probed file for the job document.

    Args:
        info: the result of `media.probe.probe`.
        spec: the specification of an output file. Its container and codec names replace libav's names.
        frames: the number of frames, if known. Not every file states it.
        frame_rate: the average frame rate, if known.
    """
    video, rate = info.video, frame_rate or info.video.frame_rate
    return StreamFacts(
        container=spec.container if spec else info.container,
        codec=spec.codec if spec else video.codec,
        width=video.width,
        height=video.height,
        frames=video.frames if frames is None else frames,
        frame_rate=float(rate) if rate else None,
        duration_seconds=info.duration_seconds,
        pixel_format=video.pixel_format,
        bit_depth=video.bit_depth,
        size_bytes=info.size_bytes,
        audio=[track.codec for track in info.audio],
        subtitles=[track.codec for track in info.subtitles],
    )


def expected_frames(info: MediaInfo, spec: OutputSpec) -> int | None:
    """Number of frames of the result, as stated or by the duration; None if the file states neither."""
    if info.video.output_frames is not None:
        return info.video.output_frames
    return round(info.duration_seconds * spec.frame_rate) if info.duration_seconds else None


def user_error(error: MediaError) -> SkipVsrError:
    """Convert an error of `media` to the error that carries an HTTP status; the message stays the same."""
    match error:
        case UnsupportedFile():
            return UnsupportedMedia(str(error))
        case HeaderElsewhere():
            return HeaderNotSent(str(error))
        case OverLimit():
            return TooLarge(str(error))
        case DecoderCrashed():
            return DecoderFailed(str(error))
        case media.errors.UnusableVideo() | Unwritable():
            return UnusableVideo(str(error))
        case _:  # the encoder or the disk failed
            return JobFailed(str(error))


@contextmanager
def user_errors() -> Iterator[None]:
    """Raise the errors of `media` in the block as errors with an HTTP status."""
    try:
        yield
    except MediaError as error:
        raise user_error(error) from error
