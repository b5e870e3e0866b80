"""Animated WebP: pictures, times, transparency and faults."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.errors import MediaError, OverLimit, UnusableVideo
from media.limits import Limits
from media.probe import probe
from media.reader import VideoReader
from tests.support.media import upscale

pytestmark = pytest.mark.usefixtures("nothing_left_behind")
WIDTH, HEIGHT = 50, 38
WHITE = "Transparent parts of the picture are shown on white."
Rgba = np.ndarray[Any, np.dtype[np.uint8]]


def _opaque(index: int) -> Rgba:
    """A slope with a white square that moves."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    rgba = np.stack([5 * x, 6 * y, np.full_like(x, 90), np.full_like(x, 255)], -1).astype(np.uint8)
    rgba[10:20, 5 * index : 5 * index + 10] = 255
    return rgba


def _sprite(index: int) -> Rgba:
    """A square that moves over nothing. The rectangles of earlier pictures have to be cleared."""
    rgba = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    rgba[8:20, 6 * index : 6 * index + 9] = (200, 40, 30, 255)
    return rgba


def _veil(index: int) -> Rgba:
    """A half transparent square that moves."""
    rgba = _sprite(index)
    rgba[..., 3] //= 2
    return rgba


PICTURES = {"opaque": _opaque, "sprite": _sprite, "veil": _veil}


def _write(path: Path, pictures: list[Rgba], times: list[int], *, loop: int = 0, lossless: bool = True) -> Path:
    """Encode pictures [H, W, 4] at times in milliseconds."""
    with av.open(str(path), "w", format="webp", container_options={"loop": str(loop)}) as container:
        stream: Any = container.add_stream("libwebp_anim", rate=1000, options={"lossless": str(int(lossless))})
        stream.width, stream.height, stream.pix_fmt = pictures[0].shape[1], pictures[0].shape[0], "bgra"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for rgba, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format="bgra")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _on_white(rgba: Rgba) -> np.ndarray[Any, Any]:
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("kind", PICTURES)
def test_every_picture_is_as_a_browser_shows_it(tmp_path: Path, kind: str) -> None:
    pictures = [PICTURES[kind](index) for index in range(6)]
    path = _write(tmp_path / "in.webp", pictures, [0, 40, 80, 120, 160, 200])
    with VideoReader(path) as reader:
        frames = [frame.rgb.astype(float) for frame in reader]
    assert len(frames) == 6
    for rgb, rgba in zip(frames, pictures, strict=True):
        assert np.abs(rgb - _on_white(rgba)).max() < 1.5
    assert (WHITE in reader.warnings) == (kind != "opaque")


def test_pictures_compressed_with_losses_keep_their_colours(tmp_path: Path) -> None:
    pictures = [_opaque(index) for index in range(3)]
    with VideoReader(_write(tmp_path / "in.webp", pictures, [0, 40, 80], lossless=False)) as reader:
        for frame, rgba in zip(reader, pictures, strict=True):
            assert np.square(frame.rgb.astype(float) - rgba[..., :3]).mean() < 60


@pytest.mark.parametrize(("loop", "sentence"), [(0, "repeats endlessly"), (3, "repeats several times"), (1, "")])
def test_delays_and_repetitions(tmp_path: Path, loop: int, sentence: str) -> None:
    times = [0, 40, 200, 1000, 1040]
    path = _write(tmp_path / "in.webp", [_opaque(index) for index in range(5)], times, loop=loop)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"ANMF") + 20 : data.rindex(b"ANMF") + 23] = (2500).to_bytes(3, "little")
    path.write_bytes(data)
    result = upscale(path, tmp_path)
    info = result.info
    assert (info.container, info.video.codec, info.video.frames) == ("webp", "webp", 5)
    assert info.duration_seconds == pytest.approx(3.54)
    assert [1000 * pts * info.video.time_base for pts in result.times] == times
    assert [w for w in result.warnings if "repeats" in w] == (
        [f"The animation {sentence}; the result plays once."] if sentence else []
    )
    with av.open(str(result.path)) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(3.54, abs=0.001)  # type: ignore[operator]


def test_a_single_picture_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "in.webp", [_opaque(0), _opaque(3)], [0, 40])
    data = path.read_bytes()
    cut = data[: data.rindex(b"ANMF")]
    path.write_bytes(cut[:4] + (len(cut) - 8).to_bytes(4, "little") + cut[8:])
    with pytest.raises(UnusableVideo, match="WEBP is a single picture"):
        probe(path)


def test_limits_hold_for_the_canvas(tmp_path: Path) -> None:
    path = _write(tmp_path / "in.webp", [_opaque(0), _opaque(3)], [0, 40])
    with pytest.raises(OverLimit, match="SKIPVSR_MAX_PIXELS"):
        probe(path, Limits(max_pixels=WIDTH * HEIGHT - 1))
    with pytest.raises(OverLimit, match="SKIPVSR_MAX_FRAMES"):
        probe(path, Limits(max_frames=1))


def test_a_file_that_breaks_off_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "in.webp", [_opaque(index) for index in range(6)], [0, 40, 80, 120, 160, 200])
    path.write_bytes(path.read_bytes()[:-20])
    result = upscale(path, tmp_path)
    assert len(result.times) == 5
    assert [w for w in result.warnings if "breaks off" in w]


def test_a_broken_picture_ends_the_animation(tmp_path: Path) -> None:
    path = _write(tmp_path / "in.webp", [_opaque(index) for index in range(6)], [0, 40, 80, 120, 160, 200])
    data = bytearray(path.read_bytes())
    at = data.rindex(b"ANMF") + 8 + 16
    data[at : at + 4] = b"JUNK"
    path.write_bytes(data)
    try:
        result = upscale(path, tmp_path)
    except MediaError:
        return
    assert len(result.times) == 5
    assert [w for w in result.warnings if "breaks off" in w or "truncated" in w or "missing" in w]
