"""Losses of the other tracks in the result's container, found by adding the tracks to a container in memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from media.tracks.attachments import add_attachments, becomes_attachment
from media.tracks.copied_sound import assumed_positions
from media.tracks.passthrough import add_track, is_passed_through
from media.tracks.track import Track
from media.tracks.trial import trial_container

_RARE_IN_MP4: Final = ("dts", "truehd", "mlp", "vorbis", "dvd_subtitle")
_DEEP_PCM: Final = re.compile(r"pcm_([fs](24|32|64)|bluray|dvd)")


@dataclass(frozen=True)
class _Trial:
    kind: str
    losses: int
    """Number of tracks and attachments that a person would miss or could not play."""
    warnings: list[str]


def predict_losses(container: InputContainer, main: VideoStream, target: str) -> tuple[str, list[str]]:
    """Choose the result's container, and collect the warnings of muxing the other tracks into it.

    Args:
        main: the stream to upscale.
        target: mp4, mov, mkv, webm, or auto: mp4 unless mkv loses less, or plays on more devices.
    """
    kinds = ("mp4", "mkv") if target == "auto" else (target,)
    best = min((_try(container, main, kind) for kind in kinds), key=lambda trial: trial.losses)
    return best.kind, best.warnings


def _try(container: InputContainer, main: VideoStream, kind: str) -> _Trial:
    warnings: list[str] = []
    target = trial_container(kind)
    losses = 0 if kind == "mkv" else len(container.streams.attachments)
    for stream in container.streams:
        if stream.index != main.index and is_passed_through(stream):
            losses += _is_loss(kind, stream, add_track(target, kind, stream, warnings))
    add_attachments(target, kind, container.streams.attachments, warnings)
    return _Trial(kind, losses, warnings)


def _is_loss(kind: str, stream: Stream, track: Track | None) -> bool:
    if track is None:
        return not becomes_attachment(kind, stream)
    return track.loses or _is_rarely_played(kind, stream) or assumed_positions(kind, stream) is not None


def _is_rarely_played(kind: str, stream: Stream) -> bool:
    """Whether few players play the track in MP4. mkv also holds the track, and more players play the track in mkv."""
    context = stream.codec_context
    if kind != "mp4" or context is None:
        return False
    codec = context.codec.canonical_name
    return codec in _RARE_IN_MP4 or bool(_DEEP_PCM.match(codec))
