"""Previews: the right frame, at the right time, as players show it."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.encode.segment import SegmentWriter
from media.errors import DecoderCrashed, FrameMissing, MediaError, UnsupportedFile
from media.limits import Limits
from media.preview import Preview, preview
from media.probe import probe
from media.spec import output_spec
from tests.support.media import as_ts

LEVELS = [20 + 6 * number for number in range(30)]
"""Grey of each frame."""


def clip(
    path: Path,
    *,
    size: tuple[int, int] = (64, 48),
    times: tuple[int, ...] = tuple(range(30)),
    unit: Fraction = Fraction(1, 25),
    options: dict[str, str] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    **context: Any,
) -> Path:
    """A video whose frames are grey, with white in the top left corner."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=options or {"g": "12", "crf": "1"})
        video.width, video.height, video.pix_fmt = *size, pixel_format
        video.time_base = video.codec_context.time_base = unit
        for name, value in context.items():
            setattr(video.codec_context, name, value)
        for level, pts in zip(LEVELS, times, strict=True):
            pixels = np.full((size[1], size[0], 3), level, np.uint8)
            pixels[: size[1] // 2, : size[0] // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = pts, unit
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def pixels(found: Preview) -> np.ndarray[Any, Any]:
    with av.open(io.BytesIO(found.webp), format="webp_pipe") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def number(found: Preview) -> int:
    """Number of the frame, by the grey of its lower right corner."""
    level = float(pixels(found)[-8:, -8:].mean())
    return round((level - LEVELS[0]) / 6)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_the_frame_that_is_shown_at_a_time(suffix: str, tmp_path: Path) -> None:
    path = clip(tmp_path / f"clip{suffix if suffix != '.ts' else '.mp4'}")
    if suffix == ".ts":
        path = as_ts(path, tmp_path / "clip.ts", ahead=100)
    for seconds, wanted in ((0.0, 0), (0.079, 1), (0.6, 15), (5.0, 29), (None, 29)):
        found = preview(path, seconds)
        assert number(found) == wanted, seconds
        assert found.seconds == pytest.approx(wanted / 25, abs=0.0011)
        assert pixels(found).shape == (48, 64, 3)


def test_frames_far_from_a_keyframe(tmp_path: Path) -> None:
    """Between keyframe and frame, the decoder leaves out frames that no other frame needs."""
    path = clip(tmp_path / "clip.mp4", unit=Fraction(1, 5), options={"g": "300", "bf": "3", "crf": "1"})
    assert [number(preview(path, seconds)) for seconds in (5.0, 5.19, 5.2, 5.79)] == [25, 25, 26, 28]


def test_frames_of_uneven_length(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mkv", times=(0, 1, *range(50, 78)))
    assert [number(preview(path, seconds)) for seconds in (0.04, 1.9, 2.0)] == [1, 1, 2]


def test_the_width_is_bounded_and_pixels_are_square(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4", sample_aspect_ratio=Fraction(2, 1))
    assert pixels(preview(path, 0.0)).shape == (48, 128, 3)
    assert pixels(preview(path, 0.0, width=32)).shape == (12, 32, 3)
    assert pixels(preview(path, 0.0, enlarge=Fraction(4))).shape == (192, 512, 3)
    assert pixels(preview(path, 0.0, enlarge=Fraction(200))).shape[1] == 3840


@pytest.mark.parametrize(
    ("rotate", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))], ids=lambda value: str(value)
)
def test_rotated_videos_stand_upright(rotate: int, corner: tuple[int, int], tmp_path: Path) -> None:
    plain = clip(tmp_path / "plain.mp4")
    path = tmp_path / "turned.mp4"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    matrices = {
        0: (one, 0, 0, one, 0, 0),
        90: (0, one, -one, 0, 48 * one, 0),
        180: (-one, 0, 0, -one, 64 * one, 48 * one),
        270: (0, -one, one, 0, 0, 64 * one),
    }
    a, b, c, d, x, y = matrices[rotate]
    for offset, value in enumerate((a, b, 0, c, d, 0, x, y)):
        data[place + 4 * offset : place + 4 * offset + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    found = pixels(preview(path, 0.0))
    assert found.shape == ((64, 48, 3) if rotate % 180 else (48, 64, 3))
    assert found[corner].min() > 240
    assert found[-1 - corner[0], -1 - corner[1]].max() < 40
    assert pixels(preview(path, 0.0, width=12)).shape[1] == 12


def test_full_range_keeps_its_levels(tmp_path: Path) -> None:
    limited = pixels(preview(clip(tmp_path / "limited.mp4"), 0.2))
    full = pixels(preview(clip(tmp_path / "full.mp4", pixel_format="yuvj420p"), 0.2))
    assert abs(limited.astype(int) - full).max() <= 6  # a wrong range is off by 16


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.5807), (18, 0.75)], ids=["PQ", "HLG"])
def test_hdr_looks_sane(transfer: int, white: float, tmp_path: Path) -> None:
    """Diffuse white is bright, black is black, grey stays grey, and BT.2020's red becomes a full red."""
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:crf=4"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p10le"
        video.codec_context.color_trc, video.codec_context.color_primaries = transfer, 9
        video.codec_context.colorspace, video.codec_context.color_range = 9, 1
        rgb = np.zeros((64, 64, 3), np.uint16)
        rgb[:32, :32] = round(white * 65535)
        rgb[:32, 32:] = round(white / 2 * 65535)
        rgb[32:, :32, 0] = round(white * 65535)
        frame = av.VideoFrame.from_ndarray(rgb, "rgb48le").reformat(
            format="yuv420p10le", dst_colorspace=9, dst_color_range=1
        )
        for frame.pts in range(5):
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    found = pixels(preview(path, 0.0)).astype(int)
    bright, grey, red, black = found[16, 16], found[16, 48], found[48, 16], found[48, 48]
    assert 170 < bright.min() <= bright.max() < 240
    assert 20 < grey.mean() < 130
    assert max(bright.max() - bright.min(), grey.max() - grey.min()) < 8
    assert red[0] > 170
    assert red[1:].max() < 60
    assert black.max() < 12


def segments(source: Path, folder: Path, chunk: int, chunks: int) -> tuple[Path, ...]:
    """The first segments of a result of twice the size, with inverted levels."""
    info = probe(source)
    spec = output_spec(info, scale=2)
    paths = []
    for start in range(0, chunk * chunks, chunk):
        path = folder / f"segment-{start:06d}.mp4"
        with SegmentWriter(path, spec) as writer:
            for index in range(start, start + chunk):
                pts = round(Fraction(index, 25) / spec.time_base)
                writer.write(
                    np.full((info.video.height * 2, info.video.width * 2, 3), 255 - LEVELS[index], np.uint8), pts
                )
        paths.append(path)
    return tuple(paths)


def inverted(found: Preview) -> int:
    return round((255 - float(pixels(found)[-8:, -8:].mean()) - LEVELS[0]) / 6)


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_an_unfinished_result_is_shown_from_its_segments(suffix: str, tmp_path: Path) -> None:
    source = clip(tmp_path / f"clip{suffix}")
    parts = segments(source, tmp_path, 6, 3)
    for seconds, wanted in ((0.0, 0), (0.24, 6), (0.68, 17), (None, 17)):
        found = preview(source, seconds, segments=parts, of_result=True)
        assert inverted(found) == wanted, seconds
        assert found.seconds == pytest.approx(wanted / 25, abs=0.001)
        assert pixels(found).shape == (96, 128, 3)
        same = preview(source, found.seconds, segments=parts)
        assert number(same) == wanted
    assert number(preview(source, None, segments=parts)) == 17
    with pytest.raises(FrameMissing):
        preview(source, 0.72, segments=parts, of_result=True)


def test_broken_and_vanished_files(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.mp4")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(source.read_bytes()[:600])
    with pytest.raises(MediaError):
        preview(broken, 0.0)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnsupportedFile):
        preview(tmp_path / "text.mp4", 0.0)
    with pytest.raises(FileNotFoundError):
        preview(source, 0.0, segments=(tmp_path / "missing.mp4",), of_result=True)
    with pytest.raises(DecoderCrashed):
        preview(source, 0.0, limits=Limits(max_decoder_seconds=1e-9))


def test_nothing_is_left_behind(tmp_path: Path, nothing_left_behind: None) -> None:
    source = clip(tmp_path / "clip.mp4")
    preview(source, 0.1)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UnsupportedFile):
        preview(tmp_path / "text.mp4", 0.0)
