"""Deinterlacing with libavfilter's bwdif: a frame for two fields, or a frame for each field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from media.demux.telecine import HardTelecine


class Deinterlacer:
    """Filter of decoded frames with times. bwdif starts at the first interlaced frame.

    Args:
        stream: the frames' stream.
        fields: False: one frame out for each frame in, at the same time. True: one frame for each field of an
            interlaced frame; the second field is shown halfway to the next frame.
    """

    def __init__(self, stream: VideoStream, *, fields: bool = False) -> None:
        self._stream, self._fields = stream, fields
        self._from = stream.time_base or Fraction(1)
        self.time_base = self._from / 2 if fields else self._from
        """Seconds of one unit of the pts of the frames that come out."""
        self.active = False
        """Whether an interlaced frame has occurred."""
        self.telecine = HardTelecine(self._from)

    def __call__(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield the frames, and replace interlaced frames by progressive frames."""
        graph: Graph | None = None
        shape: tuple[int, int, str] | None = None
        for frame in frames:
            now = frame.width, frame.height, frame.format.name
            if graph is not None and now != shape:
                yield from self._drain(graph)
                graph = None
            if graph is None and frame.interlaced_frame:
                graph, shape = self._new_graph(frame), now
                self.active = True
            if graph is None:
                yield self._timed(frame, self._from)
            else:
                self.telecine.observe(frame)
                graph.vpush(frame)
                yield from self._available(graph)
        if graph is not None:
            yield from self._drain(graph)

    def _new_graph(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            template=self._stream,
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=self._from,
        )
        mode = "send_field" if self._fields else "send_frame"
        graph.link_nodes(source, graph.add("bwdif", f"mode={mode}:deint=interlaced"), graph.add("buffersink"))
        graph.configure()
        return graph

    def _available(self, graph: Graph) -> Iterator[VideoFrame]:
        while True:
            try:
                frame = graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            # bwdif counts in half units, for its mode with one frame for each field.
            yield self._timed(frame, frame.time_base or self._from)

    def _drain(self, graph: Graph) -> Iterator[VideoFrame]:
        graph.vpush(None)
        yield from self._available(graph)

    def _timed(self, frame: VideoFrame, unit: Fraction) -> VideoFrame:
        """The frame with its time in units of `time_base`."""
        if frame.pts is not None:
            frame.pts, frame.time_base = int(frame.pts * unit / self.time_base), self.time_base
        return frame
