"""Segments + the source's other tracks → the result. Packets are copied; the video is not encoded anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from media.errors import MediaError
from media.limits import DEFAULT_LIMITS, Limits
from media.sandbox.process import Sandbox
from media.spec import OutputSpec


def assemble(
    segments: Sequence[Path], source: Path, out: Path, spec: OutputSpec, *, limits: Limits = DEFAULT_LIMITS
) -> tuple[str, ...]:
    """Join the segments' packets, and add sound, subtitles, chapters and metadata of `source`.

    Every frame keeps its pts; decoding times are computed anew over all segments. `out` is written in place: publish
    it by renaming. The source is read, and `out` written, by a process that may write nowhere but beside `out`.
    Returns what of the source could not be kept.

    Raises:
        MediaError: no segments, segments of different encoders, or the container can't hold them.
        UnsupportedFile, OverLimit: the source can't be opened any more.
        DecoderCrashed: libav died of it, or took too long.
        OSError: the disk is full.
    """
    if not segments:
        raise MediaError("nothing to assemble: there are no segments")
    arguments = {
        "segments": [path.absolute() for path in segments],
        "source": source.absolute(),
        "out": out.absolute(),
        "spec": spec,
    }
    warnings: tuple[str, ...] = ()
    with Sandbox("assemble", arguments, limits, writes_below=out.absolute().parent) as process:
        for message in process.messages():
            warnings = tuple(str(text) for text in message.get("warnings", ()))
            if message.get("closing"):  # MP4's index goes before the frames, for which libav moves them all
                process.patience = limits.seconds_to_rewrite(out.stat().st_size)
    return warnings
