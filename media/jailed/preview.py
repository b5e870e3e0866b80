"""One frame of a video at a time, as players show it: colour, crop, pixel shape, rotation."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from math import atan2, degrees
from pathlib import Path
from typing import Final, NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.color.filters import filter_chain
from media.color.tonemap import to_sdr
from media.color.yuv import DOWNSCALE, QUALITY
from media.demux.display_times import DisplayTimes
from media.demux.opening import open_untrusted, video_stream
from media.demux.seeking import INDEXED
from media.demux.side_data import display_matrix
from media.demux.track_header import track_header
from media.errors import FrameMissing, UnusableVideo
from media.jailed.decode import DecodedFrame, packet_number
from media.jailed.first_frame import decode_first_frame, readable_packets
from media.jailed.rgb import RgbConverter
from media.jailed.segments import segment_times, timestamp_shift
from media.jailed.video_packets import display_lag, has_decoding_times, typical_step
from media.ledger import TrackLedger
from media.limits import Limits
from media.orientation import Matrix, decomposed, pixel_shape
from media.sandbox.protocol import PreviewRequest

_TICK: Final = Fraction(1, 1_000_000)
"""Seconds of one unit of a preview's pts."""
_CLOSE: Final = Fraction(1, 2000)
"""Seconds by which a frame may begin after its display time: callers round."""
_EARLIER: Final = 10
"""Seconds by which the second attempt at a seek goes back."""
_TURNS: Final = {90: "transpose=clock", 180: "hflip,vflip", 270: "transpose=cclock"}
_FLIPS: Final = {"horizontal": "hflip", "vertical": "vflip"}


class _Video(NamedTuple):
    """A file with a video track. `_Shown` finds frames in it."""

    path: Path
    container: InputContainer
    stream: VideoStream
    unit: Fraction
    """Seconds of one unit of pts."""
    start: Fraction
    """Time of the first frame in seconds."""


class _Shape(NamedTuple):
    """How players show the pixels."""

    pixels: Fraction
    """Width of a pixel divided by its height."""
    matrix: Matrix | None


def preview(request: PreviewRequest, limits: Limits) -> Iterator[DecodedFrame]:
    """Yield the frame that is shown at the request's time; its pts counts microseconds from the first frame.

    Raises:
        FrameMissing: the result does not reach as far yet.
        UnsupportedFile, UnusableVideo, OverLimit: see `media.preview.preview`.
    """
    moment, rgb = _picture(request, limits)
    yield DecodedFrame(rgb, round(moment / _TICK), _TICK, clean=True)


def _picture(request: PreviewRequest, limits: Limits) -> tuple[Fraction, VideoFrame]:
    if request.of_result and request.segments:
        return _of_segments(request, limits)
    goal = None if request.seconds is None else Fraction(request.seconds).limit_denominator(1_000_000)
    if request.segments:
        segments = _Segments(request, limits)
        goal = segments.newest() if goal is None else goal
        request = request._replace(enlarge=segments.enlargement() if request.enlarge is None else request.enlarge)
    with _frame_at(request.path, limits, goal) as (video, frame, moment):
        return moment, _finished(frame, video, _shape(frame, video.stream), request, limits)


class _Segments:
    """The segments of an unfinished result, on the clock of the source."""

    def __init__(self, request: PreviewRequest, limits: Limits) -> None:
        self._paths, self._source, self._limits = request.segments, request.path, limits
        with open_untrusted(request.path, limits) as source:
            unit = video_stream(source).time_base
            if not unit:
                raise UnusableVideo("The video track has no time base.")
        self._unit = unit / 2 if request.fields else unit
        self._origin = timestamp_shift(self._paths[0]) * self._unit

    def offset(self, number: int) -> Fraction:
        """Time of the first frame of a segment, in seconds from the first frame of the video."""
        return timestamp_shift(self._paths[number]) * self._unit - self._origin

    def newest(self) -> Fraction:
        """Time of the last frame."""
        return self._times(len(self._paths) - 1)[-1]

    def end(self) -> Fraction:
        """Time at which the last frame ends, if the next one comes after the usual pause."""
        times = self._times(len(self._paths) - 1)
        step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else Fraction(1, 10)
        return times[-1] + step

    def at(self, goal: Fraction) -> int:
        """Number of the segment with a time."""
        return max(0, bisect_right(range(len(self._paths)), goal, key=self.offset) - 1)

    def enlargement(self) -> Fraction:
        """Width of the segments divided by the width of the source as shown."""
        with open_untrusted(self._paths[0], self._limits) as segment:
            width = video_stream(segment).width
        with open_untrusted(self._source, self._limits) as source:
            stream = video_stream(source)
            crop = track_header(self._source, source, stream).crop
            return Fraction(width, crop.width if crop else stream.width)

    def _times(self, number: int) -> list[Fraction]:
        """Times of the frames of a segment."""
        times = sorted(segment_times(self._paths[number], self._unit))
        return [time * self._unit - self._origin for time in times]


def _of_segments(request: PreviewRequest, limits: Limits) -> tuple[Fraction, VideoFrame]:
    segments = _Segments(request, limits)
    goal = segments.newest() if request.seconds is None else Fraction(request.seconds).limit_denominator(1_000_000)
    if goal >= segments.end():
        raise FrameMissing("The result does not reach as far yet.")
    number = segments.at(goal)
    with _opened(request.path, limits) as source:
        first = decode_first_frame(source.container, source.stream).frame
        shape = _shape(first, source.stream)
    with _frame_at(request.segments[number], limits, goal - segments.offset(number)) as (video, frame, moment):
        return moment + segments.offset(number), _finished(frame, video, shape, request, limits)


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[_Video]:
    with open_untrusted(path, limits) as container:
        stream = video_stream(container)
        if not stream.time_base:
            raise UnusableVideo("The video track has no time base.")
        stream.codec_context.thread_count = 1
        yield _Video(path, container, stream, stream.time_base, _start(path, container, stream, limits))


def _start(path: Path, container: InputContainer, stream: VideoStream, limits: Limits) -> Fraction:
    """Time of the first frame in seconds. Headers of MP4 and Matroska state the time; other files need a look."""
    assert stream.time_base
    if container.format.name in INDEXED:
        return (stream.start_time or 0) * stream.time_base
    with open_untrusted(path, limits) as again:
        video = _Video(path, again, video_stream(again), stream.time_base, Fraction(0))
        first = next(_frames(video, Fraction(0)), None)
    if first is None:
        raise UnusableVideo("No frame of the video can be decoded; the file is corrupt or incomplete.")
    return first[1] * stream.time_base


@contextmanager
def _frame_at(path: Path, limits: Limits, goal: Fraction | None) -> Iterator[tuple[_Video, VideoFrame, Fraction]]:
    """The open file, the frame shown at a time, and the frame's own time. None: the last frame.

    Seeking lands on a keyframe before the time in most files. Where it lands behind, the search begins earlier.
    """
    for earlier in (0, _EARLIER, None):
        with _opened(path, limits) as video:
            found = _search(video, goal, earlier)
            if found is not None:
                yield video, *found
                return
    raise UnusableVideo("No frame of the video can be decoded at this time.")


def _search(video: _Video, goal: Fraction | None, earlier: int | None) -> tuple[VideoFrame, Fraction] | None:
    """Decode from a keyframe so many seconds before the goal, or from the start. None: all frames come later."""
    length = (video.stream.duration or 0) * video.unit or Fraction(video.container.duration or 0, av.time_base)
    target = length if goal is None else min(goal, length or goal)
    begin = Fraction(0) if earlier is None else max(target - earlier, Fraction(0))
    if begin > 0:
        try:
            video.container.seek(int((begin + video.start) / video.unit), stream=video.stream)
        except FFmpegError:
            return None
    best: tuple[VideoFrame, Fraction] | None = None
    for frame, pts in _frames(video, target):
        moment = pts * video.unit - video.start
        if goal is not None and moment > goal + _CLOSE:
            return best or ((frame, moment) if begin == 0 else None)
        best = frame, moment
    return best


def _frames(video: _Video, goal: Fraction) -> Iterator[tuple[VideoFrame, int]]:
    """Decode, and yield (frame, display time). Far from the goal, frames that no other frame needs are left out."""
    stream, context = video.stream, video.stream.codec_context
    context.copy_opaque = True  # each frame knows the number of its packet
    only_dts = has_decoding_times(video.container)
    times = DisplayTimes[VideoFrame](
        video.unit,
        typical_step(stream),
        TrackLedger(),
        decoding_times=only_dts,
        lag=display_lag(stream) if only_dts else 0,
    )
    for packet in readable_packets(video.container, stream):
        if packet.size:
            packet.opaque = (times.coded(packet.pts, packet.dts),)
            context.skip_frame = "NONREF" if not only_dts and _is_early(packet, video, goal) else "DEFAULT"
        with suppress(FFmpegError):
            for frame in stream.decode(packet):
                yield from times.shown(frame, packet_number(frame), frame.pts, context.reorder_depth)
    yield from times.rest()


def _is_early(packet: Packet[VideoStream], video: _Video, goal: Fraction) -> bool:
    """Whether a packet's frame ends more than a second before the goal."""
    if packet.pts is None or not packet.duration:
        return False
    return (packet.pts + packet.duration) * video.unit - video.start < goal - 1


def _shape(frame: VideoFrame, stream: VideoStream) -> _Shape:
    matrix = display_matrix(frame)
    return _Shape(pixel_shape(stream.sample_aspect_ratio or Fraction(1), matrix), matrix)


def _finished(frame: VideoFrame, video: _Video, shape: _Shape, request: PreviewRequest, limits: Limits) -> VideoFrame:
    """The frame as rgb24, as players show it, within the request's size."""
    transfer, primaries = int(frame.color_trc), int(frame.color_primaries)
    crop = track_header(video.path, video.container, video.stream).crop
    convert = RgbConverter(limits, TrackLedger(), crop, None, video.stream)
    frame = _progressive(frame)
    convert.observe(frame)
    rgb = convert(frame)
    turn, filters = _turn(shape.matrix)
    width, height = _size(rgb, shape.pixels, request, sideways=turn in (90, 270))
    if (width, height) != (rgb.width, rgb.height):
        scaling = DOWNSCALE if width < rgb.width else QUALITY
        rgb = rgb.reformat(width, height, interpolation=scaling, threads=1)
    rgb = to_sdr(rgb, transfer, primaries)
    if filters:
        graph = filter_chain(rgb, *filters)
        graph.vpush(rgb)
        rgb = graph.vpull()
    return rgb if rgb.format.name == "rgb24" else rgb.reformat(format="rgb24")


def _progressive(frame: VideoFrame) -> VideoFrame:
    """The frame without the teeth of two fields."""
    if not frame.interlaced_frame:
        return frame
    graph = filter_chain(frame, "yadif")
    graph.vpush(frame)
    graph.vpush(None)
    whole: VideoFrame = graph.vpull()
    return whole


def _turn(matrix: Matrix | None) -> tuple[int, list[str]]:
    """Clockwise degrees of a display matrix, and filters that turn and mirror a picture."""
    found = decomposed(matrix) if matrix else None
    if found is None:
        return 0, []
    angle = round(degrees(atan2(found.matrix[1], found.matrix[0])) / 90) * 90 % 360
    filters = [_FLIPS[found.flip]] if found.flip else []
    return angle, filters + (_TURNS[angle].split(",") if angle else [])


def _size(rgb: VideoFrame, pixels: Fraction, request: PreviewRequest, *, sideways: bool) -> tuple[int, int]:
    """Size with square pixels, before a rotation."""
    most = request.most[::-1] if sideways else request.most
    factor = request.enlarge or Fraction(1)
    width, height = rgb.width * pixels * factor, rgb.height * factor
    shrink = min(Fraction(1), most[0] / width, most[1] / height)
    return max(1, round(width * shrink)), max(1, round(height * shrink))
