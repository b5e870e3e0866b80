"""Decoding a file to RGB frames with monotonic timestamps.

A chain of generators: packets → decoded frames → skip to the start → deinterlaced → timestamps → RGB. Each records
the losses that it finds in the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.demux.deinterlace import Deinterlacer
from media.demux.discontinuities import Discontinuities
from media.demux.opening import open_untrusted, video_stream
from media.demux.seeking import InexactSeek, frames_up_to, seek_keyframe
from media.demux.side_data import unsupported_side_data
from media.errors import UnusableVideo
from media.jailed.frame_clock import FrameClock
from media.jailed.rgb import RgbConverter
from media.ledger import Ledger, Missing, TrackLedger
from media.limits import Limits

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
    """

    def __init__(
        self, path: Path, limits: Limits, *, start_after_pts: int | None = None, frames_before: int | None = None
    ) -> None:
        self.path, self.limits, self.start_after_pts = path, limits, start_after_pts
        self.track = TrackLedger()
        """What was read, decoded and lost of the video."""
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
                yield from self._frames(seek_to=self.start_after_pts)
            except InexactSeek:
                self.track = TrackLedger()  # so far, only skipped frames were yielded
            else:
                return
        yield from self._frames(seek_to=None)

    def _frames(self, *, seek_to: int | None) -> Iterator[DecodedFrame]:
        with open_untrusted(self.path, self.limits) as container:
            stream = video_stream(container)
            self.track.index = stream.index
            if not stream.time_base:
                raise UnusableVideo("The video track has no time base.")
            # With one thread, error concealment is the same on every run, and a resumed job gives the same bytes.
            stream.codec_context.thread_count = 1
            convert = RgbConverter(self.limits, self.track)
            clock = FrameClock(stream, self.track, last=seek_to)
            keyframe = None if seek_to is None else seek_keyframe(container, stream, seek_to)
            decoded = self._decoded(self._packets(container, stream, keyframe), stream)
            if seek_to is not None and keyframe is not None:
                yield from self._skipped(frames_up_to(seek_to, decoded, keyframe=keyframe.pts or 0), stream, convert)
            deinterlace = Deinterlacer(stream)
            for frame, pts in clock.stamped(deinterlace(decoded)):
                self.track.written.frames += 1
                self.limits.check("max_frames", self.track.written.frames, "the video")
                convert.observe(frame)
                skipped = self.start_after_pts is not None and pts <= self.start_after_pts
                rgb = None if skipped else convert(frame)
                # A reading that resumes must report dropped metadata again, so such frames are not clean.
                clean = self.track.flawless and not self.track.dropped_metadata and not deinterlace.active
                yield DecodedFrame(rgb, pts, stream.time_base, clean)
            _check_damage(self.track)

    def _packets(
        self, container: InputContainer, stream: VideoStream, keyframe: Packet[VideoStream] | None
    ) -> Iterator[Packet[VideoStream]]:
        """Yield the stream's packets, from `keyframe` on if there is one, and an empty packet at the end."""
        if keyframe is not None:
            yield keyframe
        discontinuities = Discontinuities(container)
        try:
            for packet in discontinuities.packets([stream]):
                self.track.jumps = discontinuities.count(stream)
                yield packet
        except av.error.FFmpegError:
            self.track.breaks_off = True
            flush: Packet[VideoStream] = Packet()  # type: ignore[assignment]
            flush.stream = stream
            yield flush

    def _decoded(self, packets: Iterable[Packet[VideoStream]], stream: VideoStream) -> Iterator[VideoFrame]:
        track = self.track
        for packet in packets:
            try:
                for frame in stream.decode(packet):
                    track.concealed += frame.is_corrupt
                    dropped = (*track.dropped_metadata, *unsupported_side_data(frame))
                    track.dropped_metadata = tuple(dict.fromkeys(dropped))
                    yield frame
            except av.error.FFmpegError:
                track.lose(Missing.UNDECODABLE)

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
        self.track.concealed, self.track.written.frames = 0, self._frames_before or 0


def _check_damage(track: TrackLedger) -> None:
    """Raise `UnusableVideo` if no frame, or less than half of the frames, was readable."""
    if track.written.frames == 0:
        raise UnusableVideo("No frame of the video can be decoded; the file is corrupt or incomplete.")
    lost = track.lost(Missing.UNDECODABLE)
    broken, total = track.concealed + lost, track.written.frames + lost
    if broken > _DAMAGE_ALLOWED * total:
        raise UnusableVideo(f"{broken} of {total} frames are damaged, more than half; the file is corrupt.")
