"""Facts of a file, and the losses in the result's container, without decoding more than the first frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Final

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import DataStream, Disposition, Stream
from av.video.stream import VideoStream

from media.demux.animations import ANIMATIONS, check_animation
from media.demux.discontinuities import Discontinuities, has_clock
from media.demux.formats import WEBP
from media.demux.monotonic import MonotonicTimestamps
from media.demux.opening import container_name, open_untrusted, video_stream
from media.demux.rate import is_usual, nominal_rate
from media.demux.telecine import FILM_WARNING, film_rate, shows_film
from media.demux.timestamps import is_rounded, is_whole_milliseconds, rounding_warning
from media.demux.track_header import track_header
from media.demux.webp import read_animation
from media.jailed.first_frame import decode_first_frame, readable_packets
from media.jailed.header_checks import check_encryption
from media.jailed.losses import predict_losses
from media.jailed.other_sizes import with_largest_size
from media.jailed.video_info import seconds, video_info
from media.limits import Limits
from media.types import AudioInfo, MediaInfo, TrackInfo, VideoInfo

_PACKETS_TO_JUDGE_TIMES: Final = 3000
_PACKETS_TO_JUDGE_RATE: Final = 300


def inspect(path: Path, limits: Limits, target: str, *, fields: bool = False) -> MediaInfo:
    """Collect the facts of a file.

    Args:
        target: container of the result: mp4, mov, mkv, webm or auto.
        fields: whether each field of an interlaced frame is to become a frame.

    Raises:
        UnsupportedFile, UnusableVideo, OverLimit: see `media.probe.probe`.
    """
    with open_untrusted(path, limits) as container:
        stream = video_stream(container)
        _check_size(stream.width, stream.height, limits)
        limits.check("max_frames", stream.frames, "the video")  # as the header promises; 0: unknown
        header = track_header(path, container, stream)
        check_encryption(header)
        first = decode_first_frame(container, stream)
        _check_size(first.frame.width, first.frame.height, limits)
        if header.crop and header.crop.of != (first.frame.width, first.frame.height):
            header = header._replace(crop=None)
        video, warnings = video_info(stream, first, header, fields=fields)
        if container_name(container) in ANIMATIONS:
            video, about_animation = _animation(video, path, container_name(container))
            warnings += about_animation
        video = _with_rate(video, container, path, limits)
        warnings += [FILM_WARNING] if video.film else []
        video, duration = _with_duration(video, container, path, limits)
        if header.crop is None:
            video, changes = with_largest_size(video, container, stream, limits)
            warnings += changes
        if video.frames is not None:
            limits.check("max_frames", video.frames, "the video")
        warnings += _dropped_tracks(container, stream)
        target, losses = predict_losses(container, stream, target)
        warnings += losses
        if is_rounded(target, video.output_time_base) and not _in_milliseconds(path, limits):
            warnings.append(rounding_warning(target))
        return MediaInfo(
            container=container_name(container),
            duration_seconds=duration,
            size_bytes=path.stat().st_size,
            video=video,
            audio=tuple(map(_audio_info, container.streams.audio)),
            subtitles=tuple(map(_track_info, container.streams.subtitles)),
            attachments=tuple(
                s.metadata.get("filename", f"attachment {s.index}") for s in container.streams.attachments
            ),
            chapters=len(container.chapters()),
            target=target,
            warnings=tuple(warnings),
        )


def _animation(video: VideoInfo, path: Path, kind: str) -> tuple[VideoInfo, list[str]]:
    """The facts of an animated picture, and warnings about it."""
    if kind == WEBP:
        animation = read_animation(path)
        seconds, count = Fraction(animation.times[-1], 1000), len(animation.parts)
        video = replace(video, duration_seconds=float(seconds), frames=count, frame_rate=count / seconds)
    return video, check_animation(path, kind, video.frames or 0)


def _check_size(width: int, height: int, limits: Limits) -> None:
    limits.check("max_pixels", width * height, f"the video ({width}×{height})")


def _with_rate(video: VideoInfo, container: InputContainer, path: Path, limits: Limits) -> VideoInfo:
    """The video's facts, with the rate of film or of the frames that move."""
    stream = video_stream(container)
    if shows_film(readable_packets(container, stream), video):
        return replace(video, film=True, frame_rate=film_rate(stream.codec_context.framerate))
    if is_usual(video.frame_rate):
        return video
    times = [p.pts for p in _first_packets(path, limits, _PACKETS_TO_JUDGE_RATE) if p.pts is not None]
    return replace(video, nominal_rate=nominal_rate(video.frame_rate, times, video.time_base))


def _with_duration(
    video: VideoInfo, container: InputContainer, path: Path, limits: Limits
) -> tuple[VideoInfo, float | None]:
    """The video's facts and the file's duration in seconds. Raises OverLimit."""
    duration = video.duration_seconds or seconds(container.duration, Fraction(1, av.time_base))
    if duration is None:
        return video, None
    if duration > limits.max_duration_seconds and has_clock(container):
        duration = _duration_without_gaps(path, limits) or duration
        video = replace(video, duration_seconds=duration)
    limits.check("max_duration_seconds", duration, "the video")
    return video, duration


def _duration_without_gaps(path: Path, limits: Limits) -> float | None:
    """Duration without discontinuities, by reading the whole file. None if it exceeds the limit, or is unknown."""
    with open_untrusted(path, limits) as container:
        streams: list[Stream] = [video_stream(container)]
        timestamps, start, duration = MonotonicTimestamps(), None, 0.0
        with suppress(av.error.FFmpegError):
            for packet in Discontinuities(container).packets(streams):
                if timestamps.admit(packet) and packet.dts is not None:
                    start = packet.dts if start is None else start
                    duration = float((packet.dts + (packet.duration or 0) - start) * packet.time_base)
                    if duration > limits.max_duration_seconds:
                        return None
        return duration or None


def _dropped_tracks(container: InputContainer, main: VideoStream) -> list[str]:
    """Warnings about video and data tracks, which no result holds."""
    warnings = []
    others = [s for s in container.streams.video if s.index != main.index]
    if any(not s.disposition & Disposition.attached_pic for s in others):
        warnings.append("Only the best video track is upscaled; the other video tracks are dropped.")
    if any(not _holds_chapters(s, container) and not _is_time_code_of(main, s) for s in container.streams.data):
        warnings.append("Data tracks (telemetry, other metadata) are dropped.")
    return warnings


def _is_time_code_of(main: VideoStream, stream: DataStream) -> bool:
    """Whether the data track holds the video's time code, which the result keeps: as a track in MP4, or as a tag."""
    time_code = stream.metadata.get("timecode")
    return time_code is not None and time_code == main.metadata.get("timecode")


def _holds_chapters(stream: DataStream, container: InputContainer) -> bool:
    """Whether the data track is MP4's text track of chapter titles."""
    return stream.name == "bin_data" and bool(container.chapters())


def _in_milliseconds(path: Path, limits: Limits) -> bool:
    """Whether the first few thousand packets have timestamps of whole milliseconds."""
    packets = _first_packets(path, limits, _PACKETS_TO_JUDGE_TIMES)
    return all(is_whole_milliseconds(p.pts, p.time_base) for p in packets if p.pts is not None)


def _first_packets(path: Path, limits: Limits, count: int) -> Iterator[Packet[VideoStream]]:
    with open_untrusted(path, limits) as container:
        yield from islice(readable_packets(container, video_stream(container)), count)


def _track_info(stream: Stream) -> TrackInfo:
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else "unknown"
    return TrackInfo(stream.index, codec, stream.metadata.get("language"), stream.metadata.get("title"))


def _audio_info(stream: AudioStream) -> AudioInfo:
    context = stream.codec_context
    return AudioInfo(
        **vars(_track_info(stream)),
        sample_rate=context.sample_rate if context else 0,
        channels=context.channels if context else 0,
    )
