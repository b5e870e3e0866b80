"""Finding out what a file is, before anything is done with it."""

from __future__ import annotations

import errno
from pathlib import Path

from media.errors import DecoderCrashed
from media.limits import DEFAULT_LIMITS, Limits
from media.plain import from_plain
from media.sandbox.process import Sandbox
from media.types import AudioInfo, Color, ColorRange, MediaInfo, TrackInfo, VideoInfo

__all__ = ["AudioInfo", "Color", "ColorRange", "Limits", "MediaInfo", "TrackInfo", "VideoInfo", "probe"]


def probe(path: Path, limits: Limits = DEFAULT_LIMITS, *, target: str = "mp4") -> MediaInfo:
    """Say what the file is, and in `warnings` what of it can't be kept in a `target` (mp4, mov, mkv, webm or auto).

    auto is mp4, which plays everywhere, unless mp4 would lose something that mkv keeps: a track, an attachment, the
    styles of ASS subtitles. `MediaInfo.target` says what became of it.

    The file is opened in a process of its own, with limits on memory, time, files and network.

    Raises:
        FileNotFoundError: no such file.
        UnsupportedFile: not a container or codec that is taken.
        UnusableVideo: a video that can't be upscaled, with the reason.
        OverLimit: above one of `limits`; names the setting.
        DecoderCrashed: libav died of it, or took too long.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    with Sandbox("probe", {"path": path.absolute(), "target": target}, limits) as process:
        for message in process.messages():
            try:
                return from_plain(MediaInfo, message["info"])
            except (TypeError, ValueError, KeyError) as error:
                raise DecoderCrashed("the process that reads the video talks nonsense") from error
    raise DecoderCrashed("the process that reads the video said nothing")
