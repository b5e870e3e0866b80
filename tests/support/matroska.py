"""Matroska files with elements that libav does not write."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

UNKNOWN_SIZE = b"\x01" + b"\xff" * 7
WIDTH, HEIGHT = 64, 48


def element(ident: str, body: bytes) -> bytes:
    """An element with its number in hexadecimal digits."""
    return bytes.fromhex(ident) + struct.pack(">Q", 1 << 56 | len(body)) + body


def number(ident: str, value: int) -> bytes:
    """An element with an unsigned integer."""
    return element(ident, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


def grey(index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A grey picture."""
    return np.full((HEIGHT, WIDTH, 3), 20 * index, np.uint8)


def write_vp8(
    path: Path,
    *,
    picture: Callable[[int], np.ndarray[Any, np.dtype[np.uint8]]] = grey,
    video: bytes = b"",
    track: bytes = b"",
    addition: bytes = b"",
    added_from: int = 0,
) -> Path:
    """Ten pictures in VP8 at 15 frames/s, without a duration, as a browser's MediaRecorder writes.

    Args:
        video: more elements of the element Video.
        track: more elements of the track entry.
        addition: content of a BlockAdditional with number 1 in each block.
        added_from: the first block with the addition.
    """
    head = element("1a45dfa3", number("4286", 1) + number("42f7", 1) + number("42f2", 4) + number("42f3", 8)
                   + element("4282", b"webm") + number("4287", 4) + number("4285", 2))  # fmt: skip
    info = element("1549a966", number("2ad7b1", 1_000_000) + element("4d80", b"x") + element("5741", b"x"))
    video = element("e0", number("b0", WIDTH) + number("ba", HEIGHT) + video)
    track = number("d7", 1) + number("73c5", 7) + number("83", 1) + element("86", b"V_VP8") + video + track
    segment = info + element("1654ae6b", element("ae", track))
    segment += bytes.fromhex("1f43b675") + UNKNOWN_SIZE + number("e7", 0) + _blocks(picture, addition, added_from)
    path.write_bytes(head + bytes.fromhex("18538067") + UNKNOWN_SIZE + segment)
    return path


def _blocks(picture: Callable[[int], np.ndarray[Any, np.dtype[np.uint8]]], addition: bytes, added_from: int) -> bytes:
    encoder: Any = av.CodecContext.create("libvpx", "w")
    encoder.thread_count = 1  # of VP8, more spin
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.options = Fraction(1, 15), 15, {"deadline": "realtime", "crf": "4"}
    packets = []
    for index in range(10):
        frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    blocks = b""
    for index, packet in enumerate(packets):
        head = b"\x81" + struct.pack(">h", 1000 * packet.pts // 15)
        if addition and index >= added_from:
            more = element("75a1", element("a6", number("ee", 1) + element("a5", addition)))
            blocks += element("a0", element("a1", head + b"\0" + bytes(packet)) + more)
        else:
            blocks += element("a3", head + (b"\x80" if packet.is_keyframe else b"\0") + bytes(packet))
    return blocks
