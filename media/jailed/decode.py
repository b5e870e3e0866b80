"""Decoding a file to RGB frames with monotonic timestamps.

A chain of generators: packets → decoded frames → skip to the start → timestamps → deinterlaced → RGB. Each stage
records its losses in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.demux.deinterlace import Deinterlacer
from media.demux.display_times import DisplayTimes
from media.demux.opening import open_untrusted, video_stream
from media.demux.seeking import InexactSeek, frames_up_to, seek_keyframe
from media.demux.side_data import unsupported_side_data
from media.demux.telecine import SoftTelecine
from media.demux.track_header import track_header
from media.errors import UnusableVideo
from media.jailed.pictures import PictureCount
from media.jailed.rgb import RgbConverter
from media.jailed.video_packets import VideoPackets, display_lag, has_decoding_times, typical_step
from media.ledger import Ledger, Missing, TrackLedger
from media.limits import Limits
from media.types import Canvas

_DAMAGE_ALLOWED: Final = 0.5
"""A video with a larger fraction of damaged frames is refused."""


@dataclass(frozen=True)
class DecodedFrame:
    """One frame of the video."""

    rgb: VideoFrame | None
    """rgb24 or rgb48le. None: the frame is before the requested start."""
    pts: int
    time_base: Fraction
    clean: bool
    """Whether no frame so far had a fault, was scaled or was deinterlaced."""


class Decoder:
    """Decoder of the video stream of `path`. Iterate once.

    Args:
        path: the file.
        limits: bounds of size, frames and memory.
        start_after_pts: skip the frames up to and including this timestamp.
        frames_before: number of the skipped frames, if an earlier reading found the last of them `clean`. Decoding
            then begins at the nearest keyframe. None: decoding begins at the start of the file.
        fields: whether each field of an interlaced frame becomes a frame. Times then count in halves of the track's
            time base.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        *,
        start_after_pts: int | None = None,
        frames_before: int | None = None,
        fields: bool = False,
        canvas: Canvas | None = None,
    ) -> None:
        self.path, self.limits, self.start_after_pts = path, limits, start_after_pts
        self._fields, self._canvas = fields, canvas
        self.track = TrackLedger()
        """Numbers of read, decoded and lost frames of the video."""
        self._frames_before = frames_before

    @property
    def ledger(self) -> Ledger:
        """The ledger of the video alone."""
        return Ledger((self.track,))

    def frames(self) -> Iterator[DecodedFrame]:
        """Yield the frames in display order, with strictly increasing pts.

        Raises:
            UnsupportedFile, UnusableVideo, OverLimit: see `media.reader.VideoReader`.
        """
        if self.start_after_pts is not None and self._frames_before is not None:
            try:
                yield from self._frames(seek_to=self._of_track(self.start_after_pts))
            except InexactSeek:
                self.track = TrackLedger()  # so far, only skipped frames were yielded
            else:
                return
        yield from self._frames(seek_to=None)

    def _of_track(self, pts: int) -> int:
        """A time in units of the track's time base."""
        return pts // 2 if self._fields else pts

    def _frames(self, *, seek_to: int | None) -> Iterator[DecodedFrame]:
        with open_untrusted(self.path, self.limits) as container:
            stream = video_stream(container)
            self.track.index = stream.index
            if not stream.time_base:
                raise UnusableVideo("The video track has no time base.")
            # With one thread, error concealment is the same on every run, and a resumed job gives the same bytes.
            stream.codec_context.thread_count = 1
            stream.codec_context.copy_opaque = True  # each frame knows the number of its packet
            convert = RgbConverter(
                self.limits, self.track, track_header(self.path, container, stream).crop, self._canvas, stream
            )
            self._pictures = PictureCount(stream)
            self._times = DisplayTimes[VideoFrame](
                stream.time_base,
                typical_step(stream),
                self.track,
                decoding_times=has_decoding_times(container),
                lag=display_lag(stream) if has_decoding_times(container) else 0,
                last=seek_to,
            )
            self._film = SoftTelecine(stream.time_base, mpeg2=stream.codec_context.name == "mpeg2video")
            keyframe = None if seek_to is None else seek_keyframe(container, stream, seek_to)
            decoded = self._decoded(VideoPackets(container, stream, self.path, self.track, keyframe), stream)
            if seek_to is not None and keyframe is not None:
                yield from self._skipped(frames_up_to(seek_to, decoded, keyframe=keyframe.pts or 0), stream, convert)
            deinterlace = Deinterlacer(stream, fields=self._fields)
            for frame in deinterlace(self._film(self._stamped(decoded, stream))):
                pts = frame.pts or 0
                self.track.written.frames += 1
                self.limits.check("max_frames", self.track.written.frames, "the video")
                convert.observe(frame)
                skipped = self.start_after_pts is not None and pts <= self.start_after_pts
                rgb = None if skipped else convert(frame)
                clean = self._clean(self._of_track(pts)) and not deinterlace.active
                yield DecodedFrame(rgb, pts, deinterlace.time_base, clean)
            self.track.woven_film = deinterlace.telecine.found
            self._close(stream)

    def _decoded(self, packets: Iterable[Packet[VideoStream]], stream: VideoStream) -> Iterator[VideoFrame]:
        track, pictures = self.track, self._pictures
        for packet in packets:
            number = None
            if packet.size:
                number = self._times.coded(packet.pts, packet.dts)
                packet.opaque = (number,)  # PyAV keeps one reference for each object, so the object must be new
                pictures.sent(number, packet)
                self._film.sent(packet)
            elif packet.dts is not None:
                continue  # an empty sample repeats the last picture; a decoder would take it for the end
            try:
                for frame in stream.decode(packet):
                    pictures.received(packet_number(frame), frame)
                    track.concealed += frame.is_corrupt
                    dropped = (*track.dropped_metadata, *unsupported_side_data(frame, packet))
                    track.dropped_metadata = tuple(dict.fromkeys(dropped))
                    yield frame
            except av.error.FFmpegError:
                if number is not None:
                    pictures.failed(number)
                track.lose(Missing.UNDECODABLE)

    def _stamped(self, frames: Iterable[VideoFrame], stream: VideoStream) -> Iterator[VideoFrame]:
        """Yield the frames with their display times as pts."""
        for frame in frames:
            depth = stream.codec_context.reorder_depth
            yield from self._with_times(self._times.shown(frame, packet_number(frame), frame.pts, depth))
        yield from self._with_times(self._times.rest())

    def _with_times(self, frames: Iterable[tuple[VideoFrame, int]]) -> Iterator[VideoFrame]:
        for frame, pts in frames:
            frame.pts = pts
            yield frame

    def _clean(self, pts: int) -> bool:
        """Whether nothing was lost or changed up to the frame at `pts`."""
        # A reading that resumes must report dropped metadata again, so such frames are not clean.
        unchanged = self._times.exact and not self.track.dropped_metadata and not self._film.active
        return unchanged and self.track.flawless and not self._pictures.any_before(pts)

    def _close(self, stream: VideoStream) -> None:
        """Enter the missing parts. Raises `UnusableVideo` if more than half is missing."""
        track = self.track
        track.lose(Missing.NO_KEYFRAME, self._pictures.missing())
        track.read.frames = track.written.frames + track.lost(Missing.UNDECODABLE) + track.lost(Missing.NO_KEYFRAME)
        _check_damage(track)

    def _skipped(
        self, frames: Iterable[VideoFrame], stream: VideoStream, convert: RgbConverter
    ) -> Iterator[DecodedFrame]:
        """Yield the frames between keyframe and start without converting them.

        Raises:
            InexactSeek: a packet was lost.
        """
        assert stream.time_base is not None
        for frame in frames:
            convert.observe(frame)
            yield DecodedFrame(None, frame.pts or 0, stream.time_base, clean=True)
        if self.track.missing or self.track.breaks_off:
            raise InexactSeek
        self._pictures.begin_after(self._of_track(self.start_after_pts or 0))
        self.track.concealed, self.track.written.frames = 0, self._frames_before or 0


def packet_number(frame: VideoFrame) -> int | None:
    """Number of the packet that a frame was decoded from."""
    return frame.opaque[0] if isinstance(frame.opaque, tuple) else None


def _check_damage(track: TrackLedger) -> None:
    """Raise `UnusableVideo` if no frame, or less than half of the frames, was readable."""
    total = track.read.frames
    if track.written.frames == 0:
        raise UnusableVideo("No frame of the video can be decoded; the file is corrupt or incomplete.")
    broken = track.concealed + total - track.written.frames
    if broken > _DAMAGE_ALLOWED * total:
        raise UnusableVideo(
            f"{broken} of {total} frames are damaged or missing, more than half; the file is corrupt or a fragment."
        )
