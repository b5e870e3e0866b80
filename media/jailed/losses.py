"""Losses of the other tracks in the result's container, found by adding the tracks to a container in memory."""

from __future__ import annotations

from dataclasses import dataclass

from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from media.tracks.attachments import add_attachments, becomes_attachment
from media.tracks.passthrough import add_track, is_passed_through
from media.tracks.track import Track
from media.tracks.trial import trial_container


@dataclass(frozen=True)
class _Trial:
    kind: str
    losses: int
    """Number of tracks and attachments that a person would miss."""
    warnings: list[str]


def predict_losses(container: InputContainer, main: VideoStream, target: str) -> tuple[str, list[str]]:
    """Choose the result's container, and collect the warnings of muxing the other tracks into it.

    Args:
        main: the stream to upscale.
        target: mp4, mov, mkv, webm, or auto: mp4 unless mkv loses less.
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
    return not becomes_attachment(kind, stream) if track is None else track.loses
