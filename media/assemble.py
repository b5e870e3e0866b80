"""Segments and the source's other tracks → the result. All packets are copied; no video is encoded again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from media.errors import MediaError
from media.limits import DEFAULT_LIMITS, Limits
from media.sandbox.process import Sandbox, invalid_message
from media.sandbox.protocol import Muxed, MuxProgress, MuxRequest
from media.spec import OutputSpec


class Assembled(NamedTuple):
    """A complete result."""

    warnings: tuple[str, ...]
    """Missing parts of the source or the result."""
    frame_rate: Fraction | None
    """Average frames a second, from the first frame to the end of the last one."""


def assemble(
    segments: Sequence[Path], source: Path, out: Path, spec: OutputSpec, *, limits: Limits = DEFAULT_LIMITS
) -> Assembled:
    """Join the segments, and add sound, subtitles, chapters and metadata of `source`.

    Every frame keeps its pts; decoding timestamps are computed over all segments. The result is read again and compared
    with the written packets. `out` is written in place: publish it by renaming. A child process reads the source; it
    can write `out` only.

    Raises:
        Unwritable: the container can't hold the segments, or the result lacks more than half of the frames.
        MediaError: no segments, or segments of different encoders.
        UnsupportedFile, OverLimit: the source can't be opened any more.
        DecoderCrashed: the child process died, or took too long.
        OSError: the disk is full.
    """
    steps = assembling(segments, source, out, spec, limits=limits)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            assembled: Assembled = end.value
            return assembled


def assembling(
    segments: Sequence[Path], source: Path, out: Path, spec: OutputSpec, *, limits: Limits = DEFAULT_LIMITS
) -> Generator[None, None, Assembled]:
    """Do the same as `assemble`, step by step: pause at least once a second. Closing the generator ends the work."""
    if not segments:
        raise MediaError("There are no segments to assemble.")
    parts, source, out = tuple(path.absolute() for path in segments), source.absolute(), out.absolute()
    if any(path.is_symlink() for path in parts):
        raise MediaError("A segment is a symbolic link, which could name any file.")
    out.unlink(missing_ok=True)
    out.touch(exist_ok=False)  # the child may write this file, and create no other
    request = MuxRequest(parts, source, out, spec)
    assembled: Assembled | None = None
    with Sandbox(request, limits, reads=(*parts, source), writes=out) as process:
        for message in process.messages():
            match message:
                case MuxProgress():
                    yield
                case Muxed(warnings, _, frame_rate):
                    assembled = Assembled(warnings, frame_rate)
                case _:
                    raise invalid_message()
    if assembled is None:
        raise MediaError("The process that writes the result ended early.")
    return assembled
