"""Reading packets to the very end of a file, although other tracks or some samples are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from media.demux.discontinuities import Discontinuities

_MP4: Final = "mov,mp4,m4a,3gp,3g2,mj2"


def has_sample_index(container: InputContainer) -> bool:
    """Whether the container lists every sample of a track, as MP4 does."""
    return container.format.name == _MP4


class Reading:
    """Iterable of the packets of some streams, with an empty packet for each stream at the end.

    MP4's other tracks are not read: the data of a track can be missing, and libav would end there. After a missing
    sample, reading goes on at the next one.
    """

    def __init__(self, container: InputContainer, streams: Sequence[Stream]) -> None:
        self._container, self._streams = container, streams
        self._indexed = has_sample_index(container)
        self.discontinuities = Discontinuities(container)
        self.failed = False
        """Whether libav reported an error, rather than the end of the file."""
        self._last: dict[int, int] = {}

    def __iter__(self) -> Iterator[Packet[Stream]]:
        if self._indexed:
            wanted = {stream.index for stream in self._streams}
            for stream in self._container.streams:
                stream.discard = Discard.default if stream.index in wanted else Discard.all
        yield from self._readable()
        for _ in range(self._samples_left()):
            yield from self._readable()
        for stream in self._streams:
            flush: Packet[Stream] = Packet()
            flush.stream = stream
            yield flush

    def _readable(self) -> Iterator[Packet[Stream]]:
        """Yield packets until libav reports the end of the file, or an error."""
        try:
            for packet in self.discontinuities.packets(self._streams):
                if packet.dts is None and not packet.size:
                    continue  # the end of a stream
                if packet.dts is not None:
                    self._last[packet.stream.index] = packet.dts
                yield packet
        except av.error.FFmpegError:
            self.failed = True

    def _samples_left(self) -> int:
        """Number of samples that the index lists after the last one read. 0 without an index."""
        if not self._indexed:
            return 0
        return sum(missing_samples(stream, after=self._last.get(stream.index)) for stream in self._streams)


def missing_samples(stream: Stream, after: int | None) -> int:
    """Number of samples in a track's index whose dts is above `after`."""
    index = stream.index_entries
    if not len(index) or (after is not None and index[len(index) - 1].timestamp <= after):
        return 0
    return sum(after is None or entry.timestamp > after for entry in index)
