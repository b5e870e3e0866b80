"""The device converts frames to YUV as swscale converts them beside the encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from jobs.schema import JobOptions
from media.color.pixels import Pixels
from media.color.planes import LAYOUTS, chroma_place, frame_of_planes, luma_weights
from media.color.tags import BT470BG, BT709, BT2020_NCL, FCC, SMPTE170M, SMPTE240M
from media.color.yuv import RgbToYuv
from media.encode import segment
from media.encode.hardware import Encoder
from media.encode.segment import SegmentWriter
from media.reader import VideoReader
from media.spec import plain_spec
from media.types import Color, ColorRange, OutputSpec
from model.engine.loading import load_model
from model.engine.upscaler import Upscaler
from model.engine.yuv import YuvFormat, to_yuv
from pipeline.events import Finished
from pipeline.task import UpscaleTask
from pipeline.upscale import upscale
from pipeline.yuv import device_format
from tests.support.clips import make_clip

HEIGHT, WIDTH = 44, 62
ENCODERS = {"yuv420p": "libx264", "yuv420p10le": "libx265", "nv12": "h264_nvenc", "p010le": "hevc_nvenc"}


def _spec(pixel_format: str, color: Color) -> OutputSpec:
    spec = plain_spec("h264", Encoder(ENCODERS[pixel_format], pixel_format), WIDTH, HEIGHT)
    return replace(spec, color=color)


def _format(pixel_format: str, color: Color) -> YuvFormat:
    layout, place = LAYOUTS[pixel_format], chroma_place(color)
    return YuvFormat(*luma_weights(color), color.range == ColorRange.FULL, *layout, *place)


def _noise(bits: int) -> NDArray[Any]:
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (HEIGHT, WIDTH, 3), dtype, endpoint=True)


def _planes(frame: VideoFrame, bits: int, shift: int) -> list[NDArray[np.int32]]:
    """Return luma [H, W] and both colour differences [2, H / 2, W / 2] of a frame."""
    dtype = np.uint8 if bits == 8 else np.uint16
    rows = [np.frombuffer(plane, dtype).reshape(plane.height, -1) for plane in frame.planes]
    planes = [each.astype(np.int32) >> shift for each in rows]
    if len(planes) == 3:
        return [planes[0][:, :WIDTH], np.stack([plane[:, : WIDTH // 2] for plane in planes[1:]])]
    return [planes[0][:, :WIDTH], planes[1][:, :WIDTH].reshape(HEIGHT // 2, -1, 2).transpose(2, 0, 1)]


def _difference(pixel_format: str, color: Color) -> list[NDArray[np.int32]]:
    """Return how far the device's samples are from those of swscale."""
    layout, spec = LAYOUTS[pixel_format], _spec(pixel_format, color)
    rgb = _noise(layout.bits)
    # swscale leaves luma of full range in nv12 half a level too high, as in no other format: it holds planar samples.
    planar = "yuv420p" if pixel_format == "nv12" else pixel_format
    source = VideoFrame.from_numpy_buffer(rgb, "rgb24" if layout.bits == 8 else "rgb48le")
    expected = _planes(RgbToYuv(color, planar)(source), layout.bits, layout.shift)
    samples = to_yuv(torch.from_numpy(rgb)[None], _format(pixel_format, color)).numpy()[0]
    found = _planes(frame_of_planes(samples, spec), layout.bits, layout.shift)
    return [np.abs(a - b) for a, b in zip(expected, found, strict=True)]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixel_format", LAYOUTS)
@pytest.mark.parametrize("matrix", [BT709, FCC, BT470BG, SMPTE170M, SMPTE240M, BT2020_NCL])
def test_samples_differ_by_one_code_value_at_most(pixel_format: str, matrix: int, full: bool) -> None:
    color = Color(matrix=matrix, range=ColorRange.FULL if full else ColorRange.LIMITED, chroma_location="left")
    luma, chroma = _difference(pixel_format, color)
    assert luma.max() <= 1
    assert chroma.max() <= 1


@pytest.mark.parametrize("location", ["unspecified", "left", "center", "top", "bottom", "topleft", "bottomleft"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "p010le"])
def test_chroma_samples_lie_where_swscale_puts_them(pixel_format: str, location: str) -> None:
    color = Color(matrix=BT709, range=ColorRange.LIMITED, chroma_location=location)
    _, chroma = _difference(pixel_format, color)
    if chroma_place(color).on_column:  # there swscale drops the weight of a sample outside the frame
        assert chroma[..., 1].max() <= 8
        chroma = np.delete(chroma, 1, axis=-1)
    assert chroma.max() <= 1


def test_frames_of_another_size_are_refused() -> None:
    spec = _spec("yuv420p", Color(matrix=BT709, range=ColorRange.LIMITED))
    with pytest.raises(ValueError, match="4:2:0"):
        frame_of_planes(np.zeros(WIDTH * HEIGHT, np.uint8), spec)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Upscaler, Upscaler]:
    """The tiny network on a CPU, and the same on the path of accelerators."""
    plain = load_model(
        "tiny", weights_dir=tmp_path_factory.mktemp("weights"), device="cpu", precision="fp32", threads=1
    )
    return plain, Upscaler("tiny", plain.network, "tiny:0", plain.device, plain.dtype, accelerated=True)


def test_a_job_on_an_accelerator_shows_the_same_picture(
    models: tuple[Upscaler, Upscaler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, shown, converted = make_clip(tmp_path / "clip.mp4", frames=5), [], list[tuple[int, ...]]()

    def counting(samples: Pixels, spec: OutputSpec) -> VideoFrame:
        converted.append(samples.shape)
        return frame_of_planes(samples, spec)

    monkeypatch.setattr(segment, "frame_of_planes", counting)
    for number, model in enumerate(models):
        folder = tmp_path / str(number)
        folder.mkdir()
        task = UpscaleTask(
            clip, folder, JobOptions.model_validate({"model": "tiny", "chunk": 2, "lookahead": 1, "crf": 1})
        )
        *_, last = upscale(task, model)
        assert isinstance(last, Finished)
        shown.append(_shown(last.path))
    assert shown[0].shape == shown[1].shape == (5, 96, 128, 3)
    assert converted == [(96 * 128 * 3 // 2,)] * 5
    difference = shown[0] - shown[1]
    assert np.abs(difference).mean() < 1  # of the encoder, which turns rounding errors into other decisions
    assert abs(difference.mean()) < 0.1


def test_ten_bits_reach_the_encoder(tmp_path: Path) -> None:
    color = Color(matrix=BT2020_NCL, range=ColorRange.LIMITED)
    spec = _spec("yuv420p10le", color)
    rgb = np.ascontiguousarray(
        np.broadcast_to(np.linspace(0, 65280, WIDTH).astype(np.uint16)[:, None], _noise(10).shape)
    )
    samples = to_yuv(torch.from_numpy(rgb)[None], _format("yuv420p10le", color)).numpy()[0]
    shown = []
    for name, pixels in (("rgb", rgb), ("planes", samples)):
        with SegmentWriter(tmp_path / f"{name}.mp4", spec) as writer:
            writer.write(pixels, 0)
        shown.append(_shown(tmp_path / f"{name}.mp4"))
    assert np.abs(shown[0] - shown[1]).mean() < 0.5 * 256


def _shown(path: Path) -> NDArray[np.int32]:
    """Return the frames of a video [T, H, W, 3]."""
    with VideoReader(path) as reader:
        return np.stack([frame.rgb for frame in reader]).astype(np.int32)


@pytest.mark.parametrize(
    ("changes", "source"),
    [({"flip": "vertical"}, 1), ({"pixel_format": "yuv444p"}, 1), ({}, 2)],
)
def test_other_frames_cross_as_rgb(changes: dict[str, str], source: int, models: tuple[Upscaler, Upscaler]) -> None:
    plain, accelerated = models
    spec = replace(_spec("yuv420p", Color(matrix=BT709, range=ColorRange.LIMITED)), width=64, height=48)
    assert device_format(accelerated, spec, 16, 12) is not None
    assert device_format(plain, spec, 16, 12) is None
    assert device_format(accelerated, replace(spec, **changes), 16 * source, 12 * source) is None
