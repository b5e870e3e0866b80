"""A size that changes within the video: nothing is reduced below the largest part, and what is round stays round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.color.fit import fitting_size
from media.errors import OverLimit
from media.limits import Limits
from media.probe import probe
from media.reader import VideoReader
from media.types import Canvas
from tests.support.media import upscale

SIDE = 32
"""Pixels of the white square in each picture."""


def squares(
    codec: str, width: int, height: int, count: int, begin: int, shape: Fraction = Fraction(1)
) -> Iterator[Any]:
    """Packets of frames with a white square of `SIDE` rows, which a player shows as a square."""
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate, context.sample_aspect_ratio = Fraction(1, 25), 25, shape
    x264 = {"x264-params": "repeat-headers=1", "bf": "0", "g": "12"}
    context.options = x264 if codec == "libx264" else {"auto-alt-ref": "0", "threads": "1"}  # of VP8, more spin
    for index in range(count):
        rgb = np.full((height, width, 3), 60, np.uint8)
        rgb[8 : 8 + SIDE, 8 : 8 + round(SIDE / shape)] = 255
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
        frame.pts = begin + index
        yield from context.encode(frame)
    yield from context.encode(None)


def joined(path: Path, codec: str, parts: Sequence[tuple[int, int, int, Fraction]]) -> Path:
    """Write parts of (width, height, frames, pixel shape) as one track. The header has the last part's size."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = parts[-1][0], parts[-1][1], "yuv420p"
        begin = 0
        for width, height, count, shape in parts:
            for packet in squares(codec, width, height, count, begin, shape):
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                container.mux(packet)
            begin += count
    return path


def white(rgb: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Width and height of the white part."""
    mask = rgb.min(axis=-1) > 200
    return int(np.ptp(np.flatnonzero(mask.any(axis=0)))) + 1, int(np.ptp(np.flatnonzero(mask.any(axis=1)))) + 1


SQUARE = Fraction(1)


@pytest.mark.parametrize(
    ("suffix", "codec", "parts", "canvas"),
    [
        ("webm", "libvpx", [(160, 96, 10, SQUARE), (320, 192, 40, SQUARE)], (320, 192)),
        ("ts", "libx264", [(160, 96, 20, SQUARE), (320, 192, 40, SQUARE)], (320, 192)),
        ("ts", "libx264", [(256, 144, 25, SQUARE), (192, 144, 25, SQUARE)], (256, 144)),
        ("ts", "libx264", [(144, 144, 25, Fraction(16, 9)), (256, 144, 25, SQUARE)], (256, 144)),
    ],
)
def test_all_parts_fit_the_largest(
    tmp_path: Path, suffix: str, codec: str, parts: list[tuple[int, int, int, Fraction]], canvas: tuple[int, int]
) -> None:
    path = joined(tmp_path / f"clip.{suffix}", codec, parts)
    info = probe(path)
    assert (info.video.width, info.video.height) == canvas
    assert [w for w in info.warnings if "frame size changes" in w and f"{canvas[0]}×{canvas[1]}" in w]
    with VideoReader(path, canvas=info.video.canvas) as reader:
        frames = [frame.rgb for frame in reader]
    assert len(frames) == sum(count for _, _, count, _ in parts)
    assert {frame.shape for frame in frames} == {(canvas[1], canvas[0], 3)}
    for frame in (frames[0], frames[-1]):
        width, height = white(frame)
        assert width * info.video.sample_aspect_ratio / height == pytest.approx(1, abs=0.08)
    scaled = sum(count for width, height, count, _ in parts if (width, height) != canvas)
    assert [w for w in reader.warnings if f"{scaled} frames were scaled" in w]


def test_the_result_has_the_size_of_the_largest_part(tmp_path: Path) -> None:
    path = joined(tmp_path / "clip.webm", "libvpx", [(160, 96, 10, SQUARE), (320, 192, 10, SQUARE)])
    result = upscale(path, tmp_path, scale=2)
    assert (result.spec.width, result.spec.height) == (640, 384)
    assert len(result.times) == 20


def test_one_size_is_said_nowhere(tmp_path: Path) -> None:
    path = joined(tmp_path / "clip.ts", "libx264", [(160, 96, 30, SQUARE)])
    info = probe(path)
    assert (info.video.width, info.video.height, info.warnings) == (160, 96, ())


def test_a_larger_part_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = joined(tmp_path / "clip.ts", "libx264", [(160, 96, 20, SQUARE), (320, 192, 40, SQUARE)])
    with pytest.raises(OverLimit, match="320×192"):
        probe(path, Limits(max_pixels=160 * 96))


@pytest.mark.parametrize(
    ("size", "shape", "fits"),
    [
        ((1920, 1088), SQUARE, (1920, 1080)),
        ((720, 576), Fraction(64, 45), (1920, 1080)),
        ((720, 576), Fraction(16, 15), (1440, 1080)),
        ((1280, 536), SQUARE, (1920, 804)),
        ((1, 4000), SQUARE, (1, 1080)),
    ],
)
def test_pictures_keep_their_shape(size: tuple[int, int], shape: Fraction, fits: tuple[int, int]) -> None:
    assert fitting_size(*size, shape, Canvas(1920, 1080)) == fits
