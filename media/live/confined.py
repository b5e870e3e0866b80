"""Decoding of a live stream's compressed frames in a child process, which is locked down as for a file."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from media.coding import Coding
from media.errors import DecoderCrashed, UnusableVideo
from media.limits import Limits
from media.sandbox.memory import sized
from media.sandbox.process import Sandbox, invalid_message
from media.sandbox.protocol import PACKET_HEADER, SLOTS, FrameReady, LiveRequest, Message, PacketDone

_MAX_FRAMES: Final = 64
"""Most frames completed by a packet."""


class ConfinedDecoder:
    """Decoder of one stream. The child starts with the first frame, and ends with `close` or with an error.

    Frames arrive through shared memory. All methods may run in any thread.

    Args:
        coding: the stream.
        limits: bounds of memory, CPU time and waiting time. The time is for each frame.
    """

    def __init__(self, coding: Coding, limits: Limits) -> None:
        self._coding, self._limits = coding, limits
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    def decode(self, data: bytes | memoryview, number: int) -> list[tuple[NDArray[np.uint8], int]]:
        """The frames completed by the bytes, each frame with its number. Raises UnusableVideo."""
        if not data:
            coding = self._coding
            raise UnusableVideo(
                f"The frame is empty; {coding.format.name} of {coding.width}x{coding.height} was expected."
            )
        return self._exchange(data, number)

    def flush(self) -> list[tuple[NDArray[np.uint8], int]]:
        """The delayed frames. Raises UnusableVideo."""
        return self._exchange(b"", 0) if self._child else []

    def close(self) -> None:
        """End the child, also while another thread waits for a frame."""
        self._closed = True
        if child := self._child:
            child.kill()
        with self._lock:
            self._end()

    def _exchange(self, data: bytes | memoryview, number: int) -> list[tuple[NDArray[np.uint8], int]]:
        with self._lock:
            if self._closed:
                raise UnusableVideo("The stream has ended.")
            self._child = self._child or _Child(self._coding, self._limits)
            try:
                return list(self._child.frames(data, number))
            except BaseException:
                self._end()  # a damaged child is of no further use; the next frame gets a new one
                raise

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            child.close()


class _Child:
    """The process, and the memory that it shares."""

    def __init__(self, coding: Coding, limits: Limits) -> None:
        shape = SLOTS, coding.height, coding.width, 3
        size = SLOTS * coding.height * coding.width * 3
        self._memory = os.memfd_create("skipvsr-live", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            mapped = sized(self._memory, size)
            self._slots: NDArray[np.uint8] = np.frombuffer(mapped, np.uint8).reshape(shape)
            self._process = Sandbox(LiveRequest(coding, self._memory), limits, share=(self._memory,))
        except BaseException:
            os.close(self._memory)
            raise
        self._messages: Iterator[Message] = self._process.messages()

    def frames(self, data: bytes | memoryview, number: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Send a packet, and yield its frames. Without data: yield the delayed frames."""
        self._process.send(struct.pack(PACKET_HEADER, number, len(data)))
        self._process.send(data)
        count = 0
        for message in self._messages:
            match message:
                case FrameReady(slot=0, pts=pts) if count < _MAX_FRAMES:
                    frame = self._slots[0].copy()
                    count += 1
                    self._process.send(b".")
                    yield frame, pts
                case PacketDone():
                    return
                case _:
                    raise invalid_message()
        raise DecoderCrashed("The decoder of the stream ended early; the frame is probably corrupt.")

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.close()
        self._slots = np.empty((0, 0, 0, 3), np.uint8)  # unmaps the memory
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
