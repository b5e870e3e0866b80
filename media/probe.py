"""Finding out what a file is, before anything is done with it."""

from __future__ import annotations

from pathlib import Path

from media.info import AudioInfo, Color, ColorRange, MediaInfo, TrackInfo, VideoInfo
from media.inspection import inspect
from media.limits import DEFAULT_LIMITS, Limits

__all__ = ["AudioInfo", "Color", "ColorRange", "Limits", "MediaInfo", "TrackInfo", "VideoInfo", "probe"]


def probe(path: Path, limits: Limits = DEFAULT_LIMITS) -> MediaInfo:
    """Say what the file is and what of it can't be kept.

    Raises:
        FileNotFoundError: no such file.
        UnsupportedFile: not a container or codec that is taken.
        UnusableVideo: a video that can't be upscaled, with the reason.
        OverLimit: above one of `limits`; names the setting.
    """
    return inspect(path, limits)
