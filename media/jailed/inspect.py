"""Reading a file's facts with libav, in this process. `media.probe` runs it where it can do no harm."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import DataStream, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.color import conversion as colors
from media.demux.bitstream import chroma_location
from media.demux.container import container_name, open_untrusted, video_stream
from media.demux.continuity import RisingTimes
from media.demux.discontinuities import Jumps, may_jump
from media.demux.side_data import display_matrix, left_out, side_data
from media.demux.timing import ROUNDED, is_rounded
from media.errors import UnusableVideo
from media.limits import Limits
from media.tracks.copy import MUXERS, add_attachments, add_track, goes_along, is_kept_aside
from media.types import AudioInfo, Color, ColorRange, MediaInfo, TrackInfo, VideoInfo

_PACKETS_TO_FIRST_FRAME = 300
_PACKETS_TO_JUDGE_TIMES = 3000
_INTERLACED_ORDERS = range(2, 6)  # AV_FIELD_TT … AV_FIELD_BT


def inspect(path: Path, limits: Limits, target: str) -> MediaInfo:
    """Open the file, decode its first frame, and say what it is, and what of it a `target` (mp4, …, auto) can't hold.

    Raises:
        UnsupportedFile, UnusableVideo, OverLimit: as `media.probe.probe` says.
    """
    with open_untrusted(path, limits) as container:
        stream = video_stream(container)
        _check_size(stream.width, stream.height, limits)
        frame, location = first_frame(container, stream)
        _check_size(frame.width, frame.height, limits)
        video, warnings = _video_info(stream, frame, location)
        duration = video.duration_seconds or _seconds(container.duration, Fraction(1, av.time_base))
        if duration is not None and duration > limits.max_duration_seconds and may_jump(container):
            duration = _counted(path, limits) or duration
            video = replace(video, duration_seconds=duration)
        if duration is not None:
            limits.check("max_duration_seconds", duration, "the video")
        if video.frames is not None:
            limits.check("max_frames", video.frames, "the video")
        others = [s for s in container.streams.video if s.index != stream.index]
        if any(not s.disposition & Disposition.attached_pic for s in others):
            warnings.append("only the best of the video tracks is upscaled; the others are left out")
        if any(not _holds_chapters(s, container) for s in container.streams.data):
            warnings.append("data tracks (time codes, telemetry) are left out")
        target, foreseen = _foreseen(container, stream, target)
        warnings += foreseen
        if is_rounded(target, video.time_base) and not _in_milliseconds(path, limits):
            warnings.append(ROUNDED.format(target))
        return MediaInfo(
            container=container_name(container),
            duration_seconds=duration,
            size_bytes=path.stat().st_size,
            video=video,
            audio=tuple(
                AudioInfo(
                    s.index,
                    s.codec_context.codec.canonical_name if s.codec_context else "unknown",
                    s.metadata.get("language"),
                    s.metadata.get("title"),
                    s.codec_context.sample_rate if s.codec_context else 0,
                    s.codec_context.channels if s.codec_context else 0,
                )
                for s in container.streams.audio
            ),
            subtitles=tuple(
                TrackInfo(
                    s.index,
                    s.codec_context.codec.canonical_name if s.codec_context else "unknown",
                    s.metadata.get("language"),
                    s.metadata.get("title"),
                )
                for s in container.streams.subtitles
            ),
            attachments=tuple(
                s.metadata.get("filename", f"attachment {s.index}") for s in container.streams.attachments
            ),
            chapters=len(container.chapters()),
            target=target,
            warnings=tuple(warnings),
        )


def _foreseen(container: InputContainer, main: VideoStream, target: str) -> tuple[str, list[str]]:
    """The result's container, and what joining will say of the other tracks in it."""
    kinds = ("mp4", "mkv") if target == "auto" else (target,)
    trials = [(kind, *_trial(container, main, kind)) for kind in kinds]
    kind, _, warnings = min(trials, key=lambda trial: trial[1])  # the first one, if they lose alike
    return kind, warnings


def _trial(container: InputContainer, main: VideoStream, kind: str) -> tuple[int, list[str]]:
    """How much a container would lose, and what it would say, found by adding tracks to a file that isn't written."""
    warnings: list[str] = []
    lost = 0
    target = av.open(io.BytesIO(), "w", format=MUXERS[kind])
    for stream in container.streams:
        if stream.index != main.index and goes_along(stream):
            track = add_track(target, kind, stream, warnings)
            lost += (track is None and not is_kept_aside(kind, stream)) or (track is not None and track.loses)
    if kind != "mkv":
        lost += len(container.streams.attachments)
    add_attachments(target, kind, container.streams.attachments, warnings)
    return lost, warnings


def _holds_chapters(stream: DataStream, container: InputContainer) -> bool:
    """MP4's chapters are a track of text, too."""
    return stream.name == "bin_data" and bool(container.chapters())


def _in_milliseconds(path: Path, limits: Limits) -> bool:
    """Whether all frames that are looked at are shown at whole milliseconds."""
    with open_untrusted(path, limits) as container:
        packets = islice(_packets(container, video_stream(container)), _PACKETS_TO_JUDGE_TIMES)
        return all(
            (1000 * packet.pts * packet.time_base).denominator == 1 for packet in packets if packet.pts is not None
        )


def _counted(path: Path, limits: Limits) -> float | None:
    """How long the video is without jumps in its times, by reading all of it; None if that is too long, too."""
    with open_untrusted(path, limits) as container:
        streams: list[Stream] = [video_stream(container)]
        times, begin, seconds = RisingTimes(), None, 0.0
        with suppress(av.error.FFmpegError):
            for packet in Jumps(container).packets(streams):
                if times.admits(packet) and packet.dts is not None:
                    begin = packet.dts if begin is None else begin
                    seconds = float((packet.dts + (packet.duration or 0) - begin) * packet.time_base)
                    if seconds > limits.max_duration_seconds:
                        return None
        return seconds or None


def first_frame(container: InputContainer, stream: VideoStream) -> tuple[VideoFrame, str]:
    """Decode the stream's first frame; with it, where its chroma samples sit.

    Raises:
        UnusableVideo: neither the first few hundred packets give one, nor those from the first keyframe after them.
    """
    stream.codec_context.thread_count = 1
    location = ""
    tries, begun = _PACKETS_TO_FIRST_FRAME, False
    for packet in _packets(container, stream):
        if packet.is_keyframe and not begun:
            tries, begun = _PACKETS_TO_FIRST_FRAME, True
        if tries == 0:
            if begun:
                break
            continue  # cut inside a long group of pictures: nothing is decodable before the next one
        tries -= 1
        # A look at the headers, which come with keyframes or in front of all, before the decoder may change the packet.
        if packet.is_keyframe or not location:
            location = chroma_location(stream, packet)
        try:
            for frame in stream.decode(packet):
                return frame, location
        except av.error.FFmpegError:
            continue
    raise UnusableVideo("no frame of the video can be decoded; the file is damaged or incomplete")


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        return


def _check_size(width: int, height: int, limits: Limits) -> None:
    limits.check("max_pixels", width * height, f"the video ({width}×{height})")


def _video_info(stream: VideoStream, frame: VideoFrame, location: str) -> tuple[VideoInfo, list[str]]:
    context = stream.codec_context
    pixel_format = frame.format.name
    if colors.is_transparent(frame) or stream.metadata.get("alpha_mode") == "1":
        raise UnusableVideo("the video has transparency (an alpha channel), which would be lost; flatten it first")
    time_base = stream.time_base
    if not time_base:
        raise UnusableVideo("the video track has no time base")
    side = side_data(frame)
    interlaced = context.field_order in _INTERLACED_ORDERS or frame.interlaced_frame
    color = Color(
        primaries=int(frame.color_primaries),
        transfer=int(frame.color_trc),
        matrix=int(frame.colorspace),
        range=ColorRange(frame.color_range) if frame.color_range in (0, 1, 2) else ColorRange.UNSPECIFIED,
        chroma_location=location,
    )
    warnings: list[str] = []
    if interlaced:
        warnings.append("the video is interlaced; it is deinterlaced (bwdif), one frame for two fields")
    depth = colors.bit_depth(pixel_format)
    if depth > 10:
        warnings.append(f"{depth}-bit samples become 10-bit samples")
    warnings += left_out(frame)
    info = VideoInfo(
        index=stream.index,
        codec=context.codec.canonical_name,
        width=frame.width,
        height=frame.height,
        pixel_format=pixel_format,
        bit_depth=depth,
        frames=stream.frames or None,
        frame_rate=_frame_rate(stream),
        time_base=time_base,
        duration_seconds=_seconds(stream.duration, time_base),
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        color=color,
        rotation=-int(frame.rotation) % 360,
        display_matrix=display_matrix(frame),
        mastering_display=side.get(SideDataType.MASTERING_DISPLAY_METADATA),
        content_light=_content_light(side.get(SideDataType.CONTENT_LIGHT_LEVEL)),
        interlaced=interlaced,
    )
    colors.effective(info.color, pixel_format=pixel_format, height=info.height)
    return info, warnings


def _frame_rate(stream: VideoStream) -> Fraction | None:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= 1000:
            return rate
    return None


def _content_light(data: bytes | None) -> tuple[int, int] | None:
    return struct.unpack("=II", data[:8]) if data and len(data) >= 8 else None


def _seconds(value: int | None, time_base: Fraction) -> float | None:
    return float(value * time_base) if value is not None and value > 0 else None
