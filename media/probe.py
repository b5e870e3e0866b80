"""Facts about a file, and whether the file can be upscaled."""

from __future__ import annotations

import errno
from pathlib import Path

from media.errors import DecoderCrashed
from media.limits import DEFAULT_LIMITS, Limits
from media.sandbox.process import Sandbox, invalid_message
from media.sandbox.protocol import Probed, ProbeRequest
from media.types import AudioInfo, Color, ColorRange, MediaInfo, TrackInfo, VideoInfo

__all__ = ["AudioInfo", "Color", "ColorRange", "Limits", "MediaInfo", "TrackInfo", "VideoInfo", "probe"]


def probe(
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    *,
    target: str = "mp4",
    fields: bool = False,
    hole: tuple[int, int] | None = None,
) -> MediaInfo:
    """Inspect a file in a child process, with limits on memory, time, files and network.

    Args:
        path: the file.
        limits: upper bounds for the file.
        target: container of the result: mp4, mov, mkv, webm or auto. `MediaInfo.warnings` lists the losses in this
            container. auto chooses mp4, or mkv if mp4 would lose a track, an attachment or the styles of ASS
            subtitles, or holds a track that few players play there; `MediaInfo.target` is the choice.
        fields: whether each field of an interlaced frame is to become a frame.
        hole: the first byte of the file that is unknown, and the next known byte. None: the whole file is known.

    Raises:
        FileNotFoundError: no such file.
        UnsupportedFile: not an accepted container or codec.
        UnusableVideo: a video that can't be upscaled.
        OverLimit: above one of `limits`.
        HeaderElsewhere: the known bytes of a file with a hole do not suffice.
        DecoderCrashed: the child process died, or took too long.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    path = path.absolute()
    with Sandbox(ProbeRequest(path, target, fields, hole), limits, reads=(path,)) as process:
        for message in process.messages():
            if isinstance(message, Probed):
                return message.info
            raise invalid_message()
    raise DecoderCrashed("The decoder ended without an answer; the file is probably corrupt.")
