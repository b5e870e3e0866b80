"""Decoding in this process: packets in, frames with sound timestamps out. `media.reader` runs it apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from media.color import conversion as colors
from media.demux.container import open_untrusted, video_stream
from media.demux.continuity import begins_anew
from media.demux.deinterlace import Deinterlacer
from media.demux.discontinuities import Jumps
from media.demux.seeking import InexactSeek, seek, skip
from media.demux.side_data import left_out
from media.errors import UnusableVideo
from media.limits import Limits
from media.types import Color, ColorRange

DAMAGE_ALLOWED = 0.5
"""A video of which more than this fraction is damaged fails instead of ending with a warning."""


@dataclass
class Damage:
    """What was wrong with the frames so far."""

    frames: int = 0
    """Frames given out."""
    concealed: int = 0
    """Frames that libav marked as corrupt and patched up."""
    lost: int = 0
    """Packets that gave no frame."""
    repaired_pts: int = 0
    """Frames whose time was missing or not after the one before, and was made up."""
    restarts: int = 0
    """How often the times began anew, well before those that were there."""
    jumps: int = 0
    """How often the times jumped ahead."""
    resized: int = 0
    """Frames of another size than the first, scaled to it."""
    cut_short: bool = False
    """The container broke off before its end."""
    left_out: tuple[str, ...] = ()
    """What came with the frames and can't be kept, in words; no damage, but often not there at the first frame."""

    @property
    def none(self) -> bool:
        """Whether nothing was wrong."""
        moved = self.repaired_pts or self.restarts or self.jumps
        return not (self.concealed or self.lost or moved or self.resized or self.cut_short)

    def warnings(self) -> tuple[str, ...]:
        """The damage, and what was left out, in words; nothing if there is none."""
        said: list[str] = []
        if self.concealed:
            said.append(f"{self.concealed} damaged frames were concealed")
        if self.lost:
            said.append(f"{self.lost} pieces of the video could not be decoded and are missing")
        if self.repaired_pts:
            said.append(f"{self.repaired_pts} frames had no usable timestamp and were given one")
        if self.restarts:
            said.append("the video's times begin anew; what follows was put behind what came before")
        if self.jumps:
            said.append("the file's times jump ahead; what follows was put right behind what came before")
        if self.resized:
            said.append(f"the picture changes its size; {self.resized} frames were scaled to the size of the first")
        if self.cut_short:
            said.append("the file breaks off; what comes after is missing")
        return (*said, *self.left_out)

    def check(self) -> None:
        """Raise `UnusableVideo` if nothing, or too little, of the video was readable."""
        if self.frames == 0:
            raise UnusableVideo("no frame of the video can be decoded; the file is damaged or incomplete")
        broken = self.concealed + self.lost
        if broken > DAMAGE_ALLOWED * (self.frames + self.lost):
            raise UnusableVideo(f"{broken} of {self.frames + self.lost} frames are damaged, more than half")


class Decoder:
    """Frames of the video stream of `path`, as swscale's RGB. Iterate once.

    Args:
        path: the file.
        limits: the bounds for size, frames and memory.
        start_after_pts: leave out the frames up to and including this time.
        frames_before: how many these are, if all of them were read before and `clean`: then they are not decoded
            again, but for those since the last keyframe. None: decode from the start.
    """

    def __init__(
        self, path: Path, limits: Limits, *, start_after_pts: int | None = None, frames_before: int | None = None
    ) -> None:
        self.path, self.limits, self.start_after_pts = path, limits, start_after_pts
        self.damage = Damage()
        self.clean = True
        """Whether all frames so far came out as they were coded: no damage, nothing scaled, nothing deinterlaced."""
        self._frames_before = frames_before

    def frames(self) -> Iterator[tuple[VideoFrame | None, int, Fraction]]:
        """Yield (frame in rgb24 or rgb48le, pts, time base), in display order, each pts above the one before.

        Frames that are left out (up to `start_after_pts`) come as None.

        Raises:
            UnsupportedFile, UnusableVideo, OverLimit: see `media.reader.VideoReader`.
        """
        if self.start_after_pts is not None and self._frames_before is not None:
            try:
                yield from self._frames(sought=self.start_after_pts)
            except InexactSeek:
                self.damage, self.clean = Damage(), True  # nothing has been given out yet
            else:
                return
        yield from self._frames(sought=None)

    def _frames(self, *, sought: int | None) -> Iterator[tuple[VideoFrame | None, int, Fraction]]:
        with open_untrusted(self.path, self.limits) as container:
            stream = video_stream(container)
            time_base = stream.time_base
            if not time_base:
                raise UnusableVideo("the video track has no time base")
            # One thread: error concealment is then the same on every run, so a resumed job gives the same bytes.
            stream.codec_context.thread_count = 1
            step = _typical_step(stream, time_base)
            convert = _RgbConverter(self.limits, self.damage)
            deinterlace = Deinterlacer(stream)
            first = None if sought is None else seek(container, stream, sought)
            decoded = self._decoded(self._packets(container, stream, first), stream)
            if first is not None and sought is not None:
                for frame in skip(decoded, first.pts or 0, sought):
                    convert.takes(frame)
                    yield None, frame.pts or 0, time_base
                if self.damage.lost or self.damage.cut_short:
                    raise InexactSeek
                self.damage.concealed, self.damage.frames = 0, self._frames_before or 0
            last, shift = sought, 0
            for frame in deinterlace(decoded):
                pts = None if frame.pts is None else frame.pts + shift
                if pts is not None and last is not None and pts <= last and begins_anew(pts, last, time_base):
                    shift += last + step - pts
                    pts = last + step
                    self.damage.restarts += 1
                if pts is None or (last is not None and pts <= last):
                    pts = 0 if last is None else last + step if pts is None else last + 1
                    self.damage.repaired_pts += 1
                last = pts
                self.damage.frames += 1
                self.limits.check("max_frames", self.damage.frames, "the video")
                left_out = self.start_after_pts is not None and pts <= self.start_after_pts
                convert.takes(frame)
                rgb = None if left_out else convert(frame)
                # What was left out is to be named by whoever goes on, too.
                self.clean = self.damage.none and not self.damage.left_out and not deinterlace.active
                yield rgb, pts, time_base
            self.damage.check()

    def _decoded(self, packets: Iterable[av.Packet[VideoStream]], stream: VideoStream) -> Iterator[VideoFrame]:
        for packet in packets:
            try:
                for frame in stream.decode(packet):
                    self.damage.concealed += frame.is_corrupt
                    self.damage.left_out = tuple(dict.fromkeys((*self.damage.left_out, *left_out(frame))))
                    yield frame
            except av.error.FFmpegError:
                self.damage.lost += 1

    def _packets(
        self, container: InputContainer, stream: VideoStream, first: av.Packet[VideoStream] | None
    ) -> Iterator[av.Packet[VideoStream]]:
        if first is not None:
            yield first
        jumps = Jumps(container)
        try:
            for packet in jumps.packets([stream]):
                self.damage.jumps = jumps.before(stream)
                yield packet
        except av.error.FFmpegError:
            self.damage.cut_short = True
            flush: av.Packet[VideoStream] = av.Packet()  # type: ignore[assignment]
            flush.stream = stream
            yield flush


class _RgbConverter:
    """YUV → RGB by the stream's matrix and range; frames of another size are scaled to the first one's."""

    def __init__(self, limits: Limits, damage: Damage) -> None:
        self._limits, self._damage = limits, damage
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._format = ""

    def takes(self, frame: VideoFrame) -> None:
        """Note a frame, whether it is wanted or not: the first one says size and depth of all."""
        self._limits.check("max_pixels", frame.width * frame.height, f"a frame ({frame.width}×{frame.height})")
        if self._size is None:
            self._size = frame.width, frame.height
            self._format = colors.rgb_format(colors.bit_depth(frame.format.name))
        self._damage.resized += (frame.width, frame.height) != self._size

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        assert self._size is not None
        color = colors.effective(
            Color(matrix=int(frame.colorspace), range=ColorRange(frame.color_range % 3)),
            pixel_format=frame.format.name,
            height=self._size[1],
        )
        return colors.to_rgb(frame, color, self._reformatter, size=self._size, pixel_format=self._format)


def _typical_step(stream: VideoStream, time_base: Fraction) -> int:
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return max(1, round(1 / (rate * time_base)))
