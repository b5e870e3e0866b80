"""Colours of a chart survive decoding, enlarging and encoding, for every matrix and range."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.format import VideoFormat
from av.video.reformatter import VideoReformatter

from media.color.pixels import pixels
from media.color.tags import resolved
from media.color.yuv import to_rgb
from media.probe import probe
from media.reader import VideoReader
from media.types import Color
from tests.support.media import upscale

MATRICES = {"601": (6, 6, 6, (0.299, 0.114)), "709": (1, 1, 1, (0.2126, 0.0722)), "2020": (9, 14, 9, (0.2627, 0.0593))}
PATCH = 16
COLORS = np.array(
    [
        [0.1, 0.1, 0.1],
        [0.9, 0.9, 0.9],
        [0.8, 0.1, 0.1],
        [0.1, 0.7, 0.2],
        [0.1, 0.2, 0.8],
        [0.8, 0.7, 0.2],
        [0.3, 0.6, 0.7],
    ]
)


def _yuv(depth: int, full: bool, weights: tuple[float, float]) -> np.ndarray[Any, Any]:
    """The chart's Y'CbCr code values by the formulas of the ITU recommendations: [colours, 3]."""
    kr, kb = weights
    red, green, blue = COLORS.T
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    if full:
        top = 2**depth - 1
        codes = np.stack([luma * top, cb * top + 2 ** (depth - 1), cr * top + 2 ** (depth - 1)], axis=1)
    else:
        unit = 2 ** (depth - 8)
        codes = np.stack([(219 * luma + 16) * unit, (224 * cb + 128) * unit, (224 * cr + 128) * unit], axis=1)
    return codes.round()


def _chart(path: Path, codes: np.ndarray[Any, Any], depth: int, full: bool, tags: tuple[int, int, int]) -> Path:
    dtype = np.uint8 if depth == 8 else np.uint16
    height, width = PATCH, PATCH * len(COLORS)
    luma = np.repeat(codes[:, 0], PATCH)[None].repeat(height, 0).astype(dtype)
    chroma = [np.repeat(codes[:, c], PATCH // 2)[None].repeat(height // 2, 0).astype(dtype) for c in (1, 2)]
    name = "yuv420p" if depth == 8 else "yuv420p10le"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, name
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = tags
        context.color_range = 2 if full else 1
        frame = av.VideoFrame(width, height, name)
        for plane, values in zip(frame.planes, [luma, *chroma], strict=True):
            padded = np.zeros((plane.height, plane.line_size // values.itemsize), dtype)
            padded[:, : values.shape[1]] = values
            plane.update(padded.tobytes())
        for index in range(2):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _means(path: Path, patches: int) -> np.ndarray[Any, Any]:
    """Mean Y'CbCr code values in the middle of each patch of the first frame."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    planes = []
    for plane in frame.planes:
        dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
        rows = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)[:, : plane.width]  # type: ignore[call-overload]
        step = plane.width // patches
        middle = slice(step // 4, step - step // 4)
        planes.append([rows[:, n * step : (n + 1) * step][:, middle].mean() for n in range(patches)])
    return np.array(planes).T


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_chart_keeps_its_colours_and_tags(tmp_path: Path, matrix: str, full: bool, depth: int) -> None:
    primaries, transfer, code, weights = MATRICES[matrix]
    codes = _yuv(depth, full, weights)
    source = _chart(tmp_path / "in.mkv", codes, depth, full, (primaries, transfer, code))
    result = upscale(source, tmp_path)
    after = _means(result.path, len(COLORS))
    # One level of 8 bits.
    assert np.abs(after - codes).max() <= 2 ** (depth - 8), after - codes
    color = probe(result.path).video.color
    assert (color.primaries, color.transfer, color.matrix) == (primaries, transfer, code)
    assert color.range == (2 if full else 1)


@pytest.mark.parametrize(("width", "matrix"), [(PATCH * len(COLORS), 6)])
def test_an_untagged_clip_is_tagged_with_its_assumed_matrix(tmp_path: Path, width: int, matrix: int) -> None:
    """Players assume another matrix for large videos, so an untagged result would have other colours."""
    source = _chart(tmp_path / "in.mkv", _yuv(8, False, MATRICES["601"][3]), 8, False, (2, 2, 2))
    assert probe(source).video.width == width
    assert probe(upscale(source, tmp_path).path).video.color.matrix == matrix


def test_chroma_location_survives(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"chroma_sample_location": "topleft"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert probe(source).video.color.chroma_location == "topleft"
    assert probe(upscale(source, tmp_path).path).video.color.chroma_location == "topleft"


@pytest.mark.parametrize("pixel_format", ["gray", "gray10le", "gray12le", "gray16le"])
@pytest.mark.parametrize(("tag", "black", "white"), [(0, 0, 255), (1, 16, 235), (2, 0, 255)])
def test_grey_samples_follow_their_range(tmp_path: Path, pixel_format: str, tag: int, black: int, white: int) -> None:
    """Grey without a tag is of full range, as libav reads it."""
    bits = VideoFormat(pixel_format, 16, 16).components[0].bits
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.color_range = 32, 32, pixel_format, tag
        frame = av.VideoFrame(32, 32, pixel_format)
        plane = frame.planes[0]
        rows = np.full(
            (32, plane.line_size // (1 if bits == 8 else 2)), black << (bits - 8), f"u{1 if bits == 8 else 2}"
        )
        rows[:, 16:] = (white << (bits - 8)) + ((1 << (bits - 8)) - 1) * (white == 255)
        plane.update(rows.tobytes())
        frame.color_range, frame.pts, frame.time_base = tag, 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        rgb = next(iter(reader)).rgb
    top = np.iinfo(rgb.dtype).max
    assert (rgb[:, :16] <= top / 250).all()
    assert (rgb[:, 16:] >= top * 0.996).all()
    assert (rgb.max(-1) == rgb.min(-1)).all()


@pytest.mark.parametrize(
    ("pixel_format", "red"), [("rgb555be", 0x7C00), ("bgr555be", 0x1F), ("rgb565be", 0xF800), ("bgr565be", 0x1F)]
)
def test_big_endian_pixels_keep_their_colours(pixel_format: str, red: int) -> None:
    frame = av.VideoFrame(16, 16, pixel_format)
    frame.planes[0].update(red.to_bytes(2, "big") * (frame.planes[0].buffer_size // 2))
    rgb = pixels(to_rgb(frame, resolved(Color(), pixel_format=pixel_format, height=16), VideoReformatter()))
    assert (rgb == (255, 0, 0)).all()
