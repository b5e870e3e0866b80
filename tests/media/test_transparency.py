"""Transparency: a real alpha channel is refused, or put on white where animated pictures have one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.errors import UnusableVideo
from media.probe import probe
from media.reader import VideoReader
from tests.support.matroska import number, write_vp8
from tests.support.media import upscale

WHITE = "Transparent parts of the picture are shown on white."


def _clip(path: Path, codec: str, pixel_format: str, alphas: list[int], side: int = 64) -> Path:
    """Red pictures, whose right halves have the given alpha."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = side, side, pixel_format
        for number, alpha in enumerate(alphas):
            rgba = np.full((side, side, 4), (200, 40, 30, 255), np.uint8)
            rgba[:, side // 2 :, 3] = alpha
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"),
    [
        ("mov", "qtrle", "argb"),
        ("mov", "png", "rgba"),
        ("mov", "prores_ks", "yuva444p10le"),
        ("mov", "cfhd", "gbrap12le"),
        ("avi", "utvideo", "gbrap"),
        ("avi", "huffyuv", "bgra"),
        ("mkv", "ffv1", "yuva420p"),
    ],
)
def test_an_alpha_channel_that_is_opaque_is_no_transparency(
    tmp_path: Path, suffix: str, codec: str, pixel_format: str
) -> None:
    opaque = _clip(tmp_path / f"opaque.{suffix}", codec, pixel_format, [255, 255])
    result = upscale(opaque, tmp_path)
    assert WHITE not in result.warnings
    with VideoReader(opaque) as reader:
        first = next(iter(reader)).rgb
    assert np.abs(first[5, 5] / (1 if first.dtype == np.uint8 else 257) - (200, 40, 30)).max() < 4
    clear = _clip(tmp_path / f"clear.{suffix}", codec, pixel_format, [128, 128])
    with pytest.raises(UnusableVideo, match="transparency"):
        probe(clear)


def test_transparency_that_begins_later_is_named(tmp_path: Path) -> None:
    result = upscale(_clip(tmp_path / "in.mov", "qtrle", "argb", [255, 255, 0]), tmp_path)
    assert WHITE in result.warnings
    assert WHITE not in result.info.warnings


@pytest.mark.parametrize(
    ("alpha", "expected"), [(255, (200, 40, 30)), (0, (255, 255, 255)), (128, (227, 147, 142))], ids=str
)
def test_animations_are_put_on_white(tmp_path: Path, alpha: int, expected: tuple[int, int, int]) -> None:
    path = _clip(tmp_path / "in.apng", "apng", "rgba", [alpha] * 3)
    info = probe(path)
    assert (WHITE in info.warnings) == (alpha < 255)
    with VideoReader(path) as reader:
        frames = [frame.rgb.astype(int) for frame in reader]
    assert np.abs(frames[1][5, 60] - expected).max() <= 1
    assert np.abs(frames[1][5, 5] - (200, 40, 30)).max() <= 1, "opaque pixels keep their colours"
    assert (WHITE in reader.warnings) == (alpha < 255)


ALPHA_MODE = number("53c0", 1)


def test_browsers_recordings_are_taken(tmp_path: Path) -> None:
    """The track's AlphaMode says that an alpha channel may come. None comes."""
    result = upscale(write_vp8(tmp_path / "in.webm", video=ALPHA_MODE), tmp_path)
    assert len(result.times) == 10
    assert not result.warnings


def test_webm_with_an_alpha_channel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableVideo, match="transparency"):
        probe(write_vp8(tmp_path / "in.webm", video=ALPHA_MODE, addition=b"picture"))


def test_an_alpha_channel_that_begins_later_is_named(tmp_path: Path) -> None:
    source = write_vp8(tmp_path / "in.webm", video=ALPHA_MODE, addition=b"picture", added_from=5)
    result = upscale(source, tmp_path)
    assert len(result.times) == 10
    assert [w for w in result.warnings if "begin after the first frame" in w]
