"""Sending decoded frames to the parent through shared memory."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from av.video.frame import VideoFrame

from media.sandbox.protocol import SLOTS, FrameFormat, FrameReady, FrameSkipped, PacketDone

if TYPE_CHECKING:  # each request imports its own decoder
    from media.jailed.decode import DecodedFrame
    from media.jailed.live import LiveDecoder


def send_frames(
    frames: Iterator[DecodedFrame], memory: int, wait_for_parent: Callable[[], object]
) -> Iterator[FrameFormat | FrameReady | FrameSkipped]:
    """Copy frames to the shared memory, and yield a message for each.

    Args:
        memory: file descriptor of the memory. The parent sizes the memory after `FrameFormat`.
        wait_for_parent: returns when the parent has sized the memory, and once for every frame that it has copied.
    """
    slots: _Slots | None = None
    sent = 0
    for frame in frames:
        if frame.rgb is None:
            yield FrameSkipped(frame.pts)
            continue
        if slots is None:
            sample = _bytes_per_sample(frame.rgb)
            yield FrameFormat(frame.rgb.width, frame.rgb.height, sample, frame.time_base)
            wait_for_parent()
            slots = _Slots(memory, frame.rgb)
        elif sent >= SLOTS:
            wait_for_parent()
        slot = sent % SLOTS
        slots.write(slot, frame.rgb)
        sent += 1
        yield FrameReady(slot, frame.pts, frame.clean)


def send_live_frames(
    decoder: LiveDecoder, packets: Iterable[tuple[bytes, int]], memory: int, wait_for_parent: Callable[[], object]
) -> Iterator[FrameReady | PacketDone]:
    """Decode packets of a live stream, copy each frame to the shared memory, and yield a message for each.

    Args:
        packets: data and number. Without data: a request for the delayed frames.
        memory: file descriptor of the memory, which the parent has sized.
        wait_for_parent: returns once for every frame that the parent has copied.
    """
    slots: _Slots | None = None
    for data, number in packets:
        for rgb, of in decoder.decode(data, number) if data else decoder.flush():
            slots = slots or _Slots(memory, rgb)
            slots.write(0, rgb)
            yield FrameReady(0, of, clean=True)
            wait_for_parent()
        yield PacketDone()


class _Slots:
    """The shared memory: `SLOTS` frames of one size, without padding."""

    def __init__(self, memory: int, first: VideoFrame) -> None:
        self._row = 3 * _bytes_per_sample(first) * first.width
        self._size = self._row * first.height
        self._memory = memoryview(mmap.mmap(memory, self._size * SLOTS))

    def write(self, slot: int, frame: VideoFrame) -> None:
        """Copy an RGB frame, without the padding of its rows."""
        into = self._memory[slot * self._size : (slot + 1) * self._size]
        plane, row = frame.planes[0], self._row
        data = memoryview(plane)
        if plane.line_size == row:
            into[:] = data[: len(into)]
            return
        for y in range(frame.height):
            into[y * row : (y + 1) * row] = data[y * plane.line_size : y * plane.line_size + row]


def _bytes_per_sample(frame: VideoFrame) -> int:
    return 1 if frame.format.name == "rgb24" else 2
