"""Counting pictures: packets into the decoder, and frames out of the decoder."""

from __future__ import annotations

from typing import Final

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

_ONE_PICTURE: Final = ("h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9", "av1")
"""Codecs with one shown picture in each packet, apart from the exceptions in `_is_shown`. Other decoders may drop
packets that repeat a picture."""
_PATIENCE: Final = 64
"""Packets after which a packet without a frame gives none."""
_EMPTY_VOP: Final = 19
"""MPEG-4 repeats the last picture by a packet of less than 20 bytes. libav uses the same bound."""
_SECOND_FIELDS: Final = 0.8
"""Fraction of interlaced frames with two packets, above which the second packets are fields of the same frames."""


class PictureCount:
    """Packets without a frame, although the decoder reported no error: the frames that they refer to are missing.

    Discarded samples, hidden frames and second fields are no losses.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._codec = stream.codec_context.codec.canonical_name
        self._waiting: dict[int, int | None] = {}
        self._interlaced: dict[int, None] = {}
        self._missing = self._fields = self._pairs = 0

    def sent(self, number: int, packet: Packet[VideoStream]) -> None:
        """Packet `number` goes into the decoder."""
        if self._codec in _ONE_PICTURE and _is_shown(self._codec, packet):
            self._waiting[number] = packet.pts

    def failed(self, number: int) -> None:
        """The decoder refused packet `number`."""
        self._waiting.pop(number, None)

    def received(self, number: int | None, frame: VideoFrame) -> None:
        """The frame of packet `number` came out of the decoder."""
        if number is None:
            return
        self._waiting.pop(number, None)
        if frame.interlaced_frame:
            self._fields += 1
            self._interlaced[number] = None
        for other in [other for other in self._waiting if other < number - _PATIENCE]:
            self._give_up(other)
        for other in [other for other in self._interlaced if other < number - 2 * _PATIENCE]:
            del self._interlaced[other]

    def begin_after(self, pts: int) -> None:
        """Forget the packets up to `pts`: an earlier reading has counted them."""
        self._waiting = {n: time for n, time in self._waiting.items() if time is not None and time > pts}
        self._missing = self._fields = self._pairs = 0

    def any_before(self, pts: int) -> bool:
        """Whether a picture before `pts` has not come out."""
        return self._missing > 0 or any(time is not None and time < pts for time in self._waiting.values())

    def missing(self) -> int:
        """Pictures that did not come out, at the end of the video."""
        for number in list(self._waiting):
            self._give_up(number)
        pairs_are_fields = self._pairs > _SECOND_FIELDS * self._fields
        return self._missing + (0 if pairs_are_fields else self._pairs)

    def _give_up(self, number: int) -> None:
        del self._waiting[number]
        if number - 1 in self._interlaced:
            self._pairs += 1
        else:
            self._missing += 1


def _is_shown(codec: str, packet: Packet[VideoStream]) -> bool:
    """Whether a packet holds a picture to be shown."""
    if packet.is_discard or not packet.size:
        return False
    if codec == "mpeg4":
        return packet.size > _EMPTY_VOP
    if codec == "vp8":
        return bool(memoryview(packet)[0] & 0x10)
    return codec != "vp9" or _vp9_is_shown(memoryview(packet))


def _vp9_is_shown(data: memoryview) -> bool:
    """Whether a VP9 packet shows a frame. A superframe does, for its last frame."""
    if data[-1] & 0xE0 == 0xC0:
        return True
    first = data[0]
    at = 5 if first & 0x30 == 0x30 else 4  # profile 3 has a reserved bit
    shows_existing, shows_this = first & (0x80 >> at), first & (0x80 >> (at + 2))
    return bool(shows_existing or shows_this)
