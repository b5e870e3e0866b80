"""Deinterlacing with libavfilter's bwdif."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream


class Deinterlacer:
    """Filter with one frame out for each frame in, at the same pts. bwdif starts at the first interlaced frame."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._time_base = stream.time_base or Fraction(1)
        self.active = False
        """Whether an interlaced frame has occurred."""

    def __call__(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield the frames, and replace the interlaced ones by progressive ones."""
        graph: Graph | None = None
        shape: tuple[int, int, str] | None = None
        for frame in frames:
            now = frame.width, frame.height, frame.format.name
            if graph is not None and now != shape:
                yield from _drain(graph, self._time_base)
                graph = None
            if graph is None and frame.interlaced_frame:
                graph, shape = self._new_graph(frame), now
                self.active = True
            if graph is None:
                yield frame
            else:
                graph.vpush(frame)
                yield from _available(graph, self._time_base)
        if graph is not None:
            yield from _drain(graph, self._time_base)

    def _new_graph(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            template=self._stream,
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=self._time_base,
        )
        graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
        graph.configure()
        return graph


def _available(graph: Graph, time_base: Fraction) -> Iterator[VideoFrame]:
    while True:
        try:
            frame = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        if frame.pts is not None and frame.time_base:
            # bwdif counts in half units, for its mode with one frame for each field.
            frame.pts, frame.time_base = int(frame.pts * frame.time_base / time_base), time_base
        yield frame


def _drain(graph: Graph, time_base: Fraction) -> Iterator[VideoFrame]:
    graph.vpush(None)
    yield from _available(graph, time_base)
