"""Interlaced and telecined clips: fields woven by hand, and MPEG-2 with repeated fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph

FILM = Fraction(24000, 1001)
VIDEO = Fraction(30000, 1001)
_SEQUENCE, _EXTENSION = b"\0\0\1\xb3", b"\0\0\1\xb5"


def moving(index: int, width: int = 96, height: int = 64) -> np.ndarray[Any, Any]:
    """A pattern with a white bar, three pixels further in each picture."""
    y, x = np.mgrid[0:height, 0:width]
    grey = (60 + (x * 3 + y * 2) % 100).astype(np.uint8)
    grey[:, (3 * index) % (width - 12) : (3 * index) % (width - 12) + 12] = 235
    return np.stack([grey] * 3, -1)


def bar(rgb: np.ndarray[Any, Any]) -> float:
    """Position of the bar's middle in pixels of the pattern."""
    columns = rgb.astype(float).mean(axis=(0, 2))
    bright = np.flatnonzero(columns > 190)
    return float(bright.mean()) * 96 / rgb.shape[1]


def woven(fields: list[np.ndarray[Any, Any]], *, top_first: bool) -> Iterator[np.ndarray[Any, Any]]:
    """Frames of two fields each."""
    for first, second in zip(fields[::2], fields[1::2], strict=False):
        frame = first.copy()
        later = slice(1 if top_first else 0, None, 2)
        frame[later] = second[later]
        yield frame


def write_interlaced(
    path: Path,
    fields: list[np.ndarray[Any, Any]],
    rate: Fraction = Fraction(25),
    *,
    codec: str = "libx264",
    top_first: bool = True,
    times: Sequence[int] | None = None,
    sound: bool = False,
) -> Path:
    """Encode woven fields as interlaced video, at `times` in units of 1/rate."""
    options = {"b": "8M", "flags": "+ildct+ilme"}
    if codec == "libx264":
        options = {"crf": "12", "x264-params": "interlaced=1"}
    height, width = fields[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        tone: Any = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        order = Graph()  # frames made of arrays do not say which field is first
        source = order.add_buffer(width=width, height=height, format=av.VideoFormat("yuv420p"), time_base=1 / rate)
        order.link_nodes(source, order.add("setfield", "tff" if top_first else "bff"), order.add("buffersink"))
        order.configure()
        pictures = list(woven(fields, top_first=top_first))
        for pts, picture in zip(times or range(len(pictures)), pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = pts, 1 / rate
            order.vpush(frame)
            container.mux(stream.encode(order.vpull()))
        container.mux(stream.encode(None))
        if tone is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate = 48000
            for block in range(int(len(pictures) / rate * 48000) // 1024):
                silence.pts = 1024 * block
                container.mux(tone.encode(silence))
            container.mux(tone.encode(None))
    return path


def interlaced_clip(path: Path, frames: int = 12, rate: Fraction = Fraction(25), **more: Any) -> Path:
    """Video with movement in each field. `more`: see `write_interlaced`."""
    return write_interlaced(path, [moving(n) for n in range(2 * frames)], rate, **more)


def hard_telecine(path: Path, film_frames: int = 48, **more: Any) -> Path:
    """Film, woven into 29.97 interlaced frames a second."""
    fields = [moving(n) for n in range(film_frames) for _ in range(2 + n % 2)]
    return write_interlaced(path, fields, VIDEO, **more)


def soft_telecine(path: Path, film_frames: int = 48, *, b_frames: int = 2, noise: int = 0) -> Path:
    """Film in MPEG-2 as on DVDs: progressive frames with flags that repeat a field of each second frame.

    Args:
        noise: in levels; makes the pictures as large as those of real film.
    """
    context: Any = av.CodecContext.create("mpeg2video", "w")
    context.width, context.height, context.pix_fmt = 96, 64, "yuv420p"
    context.time_base, context.framerate = 1 / VIDEO, VIDEO
    context.options = {"bf": str(b_frames), "g": "12", "b": "8M"}
    coded = []
    for index in range(film_frames):
        picture = np.clip(moving(index) + np.random.default_rng(index).integers(-noise, noise + 1, (64, 96, 1)), 0, 255)
        frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), "rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = index, context.time_base
        coded += context.encode(frame)
    coded += context.encode(None)
    shown = [5 * (n // 2) + 3 * (n % 2) for n in range(film_frames + b_frames + 2)]  # first field of each frame
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg2video", rate=VIDEO)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        field = 1 / (2 * VIDEO)
        for place, packet in enumerate(coded):
            out: Any = av.Packet(_flagged(bytes(packet), packet.pts))
            out.stream, out.time_base = stream, Fraction(1, 90000)
            out.pts = round((shown[packet.pts] + 6) * field * 90000)
            out.dts = round(shown[place] * field * 90000)
            out.is_keyframe = packet.is_keyframe
            container.mux_one(out)
    return path


def _flagged(data: bytes, index: int) -> bytes:
    """A coded picture with the flags of soft telecine: three fields for even pictures, two for odd ones."""
    coded = bytearray(data)
    at = coded.find(_SEQUENCE)
    if at >= 0:
        coded[at + 7] = coded[at + 7] & 0xF0 | 4  # 30000/1001
    at = -1
    while (at := coded.find(_EXTENSION, at + 1)) >= 0:
        if coded[at + 4] >> 4 == 1:
            coded[at + 5] &= ~0x08  # not a progressive sequence
        elif coded[at + 4] >> 4 == 8:
            top_first, repeat = index % 4 in (0, 3), index % 2 == 0
            coded[at + 7] = coded[at + 7] & ~0x82 | top_first << 7 | repeat << 1
    return bytes(coded)
