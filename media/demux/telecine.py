"""Film in 29.97 interlaced frames a second: soft telecine, by flags, and hard telecine, in the pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Final

import av
from av.filter import Graph
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.color.filters import filter_chain
from media.types import VideoInfo

FILM_WARNING: Final = "The video is film with soft telecine; the film frames come out evenly, at the film's rate."
_FILM_RATES: Final = Fraction(24000, 1001), Fraction(24)
_VIDEO_RATES: Final = 23, 61
"""Rates that headers state for film with soft telecine: of the film, of frames, of fields."""
_LOOKED_AT: Final = 60
"""Packets that decide about soft telecine before the work."""
_FEWEST_FLAGS: Final = Fraction(3, 10)
"""Share of the pictures with a repeated field; half of film has one."""
_PICTURE_CODING: Final = b"\0\0\1\xb5"
"""Start code of an extension of MPEG-2. The next four bits name the extension."""
_CADENCE: Final = Fraction(3, 2)
"""Film frames are shown for three and two fields in turn."""
_ROUNDING: Final = Fraction(1, 20)
_LONGEST_STEP: Final = Fraction(1, 10)
"""Seconds."""
_JUDGED: Final = 300
"""Interlaced frames that decide about hard telecine."""
_FEWEST: Final = 25
_REPEATED: Final = (Fraction(12, 100), Fraction(28, 100))
"""Share of the frames that repeat a top field, and share of the frames that repeat a bottom field: a fifth each."""


def repeats_field(packet: Packet[VideoStream]) -> bool:
    """Whether an MPEG-2 picture is progressive and repeats its first field (RFF)."""
    data, at = bytes(packet), -1
    while (at := data.find(_PICTURE_CODING, at + 1)) >= 0:
        if len(data) >= at + 9 and data[at + 4] >> 4 == 8:  # the picture coding extension
            return bool(data[at + 7] >> 1 & 1) and bool(data[at + 8] >> 7 & 1)
    return False


def shows_film(packets: Iterator[Packet[VideoStream]], video: VideoInfo) -> bool:
    """Whether the next packets of an MPEG-2 video say that half of the frames repeat a field."""
    low, high = _VIDEO_RATES
    if video.codec != "mpeg2video" or not low < (video.frame_rate or 0) < high:
        return False
    flags = [repeats_field(packet) for packet in islice(packets, _LOOKED_AT) if packet.size]
    return sum(flags) > _FEWEST_FLAGS * len(flags)


def film_rate(rate: Fraction | None) -> Fraction:
    """The film's rate, from a header's rate of film frames, video frames or fields."""
    stated = rate or _FILM_RATES[0]
    candidates = (stated, stated * 4 / 5, stated * 2 / 5)
    return min(_FILM_RATES, key=lambda film: min(abs(candidate - film) for candidate in candidates))


class SoftTelecine:
    """Even times for film frames that a stream shows for three and two fields in turn.

    A frame after three fields and before two is shown half a field early, halfway between its neighbours. All other
    times stay.
    """

    def __init__(self, time_base: Fraction, *, mpeg2: bool) -> None:
        self._time_base, self._mpeg2 = time_base, mpeg2
        self._flagged = False
        self.active = False
        """Whether a frame's time may have changed so far."""

    def sent(self, packet: Packet[VideoStream]) -> None:
        """Observe a packet on its way to the decoder."""
        self._flagged = self._flagged or (self._mpeg2 and repeats_field(packet))

    def __call__(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield frames with times, evenly where they are film."""
        times: list[int | None] = [None, None]
        """Own times of the two frames before the held one."""
        held: VideoFrame | None = None
        for frame in frames:
            if held is not None:
                own = held.pts
                yield self._even(held, times[1], frame.pts)
                times = [times[1], own]
            held = frame
        if held is not None:
            # After the last frame, the distance before the last two frames tells.
            before, last = times[1], held.pts
            earlier = None if None in times or last is None else last + (times[1] or 0) - (times[0] or 0)
            yield self._even(held, before, earlier)

    def _even(self, frame: VideoFrame, before: int | None, after: int | None) -> VideoFrame:
        """Move a frame between its neighbours' times if the cadence is film's."""
        active, self.active = self.active, self.active or self._flagged
        if active and not frame.interlaced_frame and None not in (before, frame.pts, after):
            first, second = (frame.pts or 0) - (before or 0), (after or 0) - (frame.pts or 0)
            if self._is_cadence(first, second):
                frame.pts = round(Fraction((before or 0) + (after or 0), 2))
        return frame

    def _is_cadence(self, first: int, second: int) -> bool:
        if not 0 < first * self._time_base < _LONGEST_STEP or second <= 0:
            return False
        return abs(Fraction(first, second) - _CADENCE) <= _ROUNDING + Fraction(3, 2 * second)


class HardTelecine:
    """Counts fields that interlaced frames repeat. Film that was woven into 29.97 frames repeats two in five frames."""

    def __init__(self, time_base: Fraction) -> None:
        self._time_base = time_base
        self._graph: Graph | None = None
        self._shape: tuple[int, int, str] | None = None
        self._frames = 0
        self._repeated = {"top": 0, "bottom": 0}

    @property
    def found(self) -> bool:
        """Whether the frames so far are film with telecine."""
        if self._frames < _FEWEST:
            return False
        low, high = _REPEATED
        return all(low <= Fraction(count, self._frames) <= high for count in self._repeated.values())

    def observe(self, frame: VideoFrame) -> None:
        """Judge the next frame."""
        shape = frame.width, frame.height, frame.format.name
        if self._frames >= _JUDGED or self._shape not in (None, shape):
            return
        if self._graph is None:
            self._graph, self._shape = filter_chain(frame, "idet", time_base=self._time_base), shape
        self._graph.vpush(frame)
        while True:
            try:
                judged = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                break
            self._frames += 1
            repeated = judged.metadata.get("lavfi.idet.repeated.current_frame", "neither")
            if repeated in self._repeated:
                self._repeated[repeated] += 1
