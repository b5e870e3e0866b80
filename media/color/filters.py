"""Chains of libavfilter's filters."""

from __future__ import annotations

from fractions import Fraction

from av.filter import Graph
from av.video.frame import VideoFrame


def filter_chain(frame: VideoFrame, *filters: str, time_base: Fraction = Fraction(1, 25)) -> Graph:
    """A chain of filters for frames of the size and format of `frame`.

    A single thread gives the same pixels in every run.

    Args:
        frame: a frame of the stream; it does not enter the chain.
        filters: a filter each, as libav writes them: `name` or `name=options`.
        time_base: seconds of one unit of the frames' pts.
    """
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
    parts = (name.partition("=") for name in filters)
    graph.link_nodes(source, *(graph.add(name, options or None) for name, _, options in parts), graph.add("buffersink"))
    graph.configure()
    return graph
