"""Hardware encoders are optional. On a machine without one, the tests cover the fallback to software."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from media.encode import hardware
from media.encode.encoders import _OPTIONS
from media.encode.hardware import Encoder, choose, trouble
from media.encode.segment import SegmentWriter
from media.probe import probe
from media.spec import output_spec, plain_spec
from tests.support.media import shown, stripes, write_clip

SOFTWARE = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}


def test_software_tries_nothing(caplog: pytest.LogCaptureFixture) -> None:
    trouble.cache_clear()
    assert [choose(codec, "software", 64, 64).name for codec in SOFTWARE] == list(SOFTWARE.values())
    assert trouble.cache_info().misses == 0
    assert caplog.records == []


def test_trying_really_encodes_a_frame() -> None:
    """A working encoder passes in both pixel formats of hardware encoders. A missing encoder fails."""
    assert trouble(Encoder("libx264", "nv12"), 64, 48) == ""
    assert trouble(Encoder("libx265", "yuv420p10le"), 64, 48) == ""
    assert trouble(Encoder("libx264", "nv12"), 0, 48)
    assert trouble(Encoder("h264_nonsense", "nv12"), 64, 48)
    assert trouble(Encoder("aac", "nv12"), 64, 48)


@pytest.mark.parametrize("wish", ["nvenc", "vaapi", "auto"])
@pytest.mark.parametrize("codec", SOFTWARE)
def test_software_is_the_reported_fallback(wish: str, codec: str, caplog: pytest.LogCaptureFixture) -> None:
    """The chosen encoder works, on machines with and without hardware."""
    caplog.set_level(logging.INFO)
    trouble.cache_clear()
    first = choose(codec, wish, 256, 256, deep=codec == "hevc")
    assert not trouble(first, 256, 256)
    if first.name == SOFTWARE[codec]:
        said = caplog.messages[-1]
        assert said.startswith(f"{first.name} encodes {codec} at 256×256: ")
        assert " does not work on this machine (" in said, "no reason"
    misses = trouble.cache_info().misses
    assert choose(codec, wish, 256, 256, deep=codec == "hevc") == first
    assert trouble.cache_info().misses == misses, "tested once in each process"


def test_an_encoder_of_the_wish_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "trouble", lambda encoder, *_: "" if encoder.name.endswith("vaapi") else "no driver")
    assert choose("hevc", "auto", 64, 64, deep=True) == Encoder("hevc_vaapi", "p010le")
    assert choose("h264", "nvenc", 64, 64).name == "libx264"


@pytest.mark.parametrize(("codec", "crf", "quality"), [("h264", 0, "1"), ("h264", 18, "18"), ("av1", 51, "63")])
def test_nvenc_gets_a_quality_at_each_crf(codec: str, crf: int, quality: str) -> None:
    spec = replace(plain_spec(codec, Encoder(f"{codec}_nvenc", "nv12"), 64, 64), crf=crf)
    assert _OPTIONS[spec.encoder](spec)["cq"] == quality


@pytest.mark.parametrize(("pixel_format", "depth"), [("nv12", 8), ("p010le", 10)])
def test_frames_reach_the_encoder_in_the_formats_of_hardware(tmp_path: Path, pixel_format: str, depth: int) -> None:
    """x264 also accepts NV12. P010 is only converted, not encoded."""
    from media.color.pixel_formats import bit_depth
    from media.color.yuv import RgbToYuv

    assert bit_depth(pixel_format) == depth
    spec = replace(output_spec(probe(write_clip(tmp_path / "in.mp4"))), pixel_format=pixel_format)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stripes(0, 128, 96)), format="rgb24")
    assert RgbToYuv(spec.color, pixel_format)(frame).format.name == pixel_format
    if pixel_format == "nv12":
        with SegmentWriter(tmp_path / "a.mp4", spec) as writer:
            for index in range(5):
                writer.write(stripes(index, 128, 96), index)
        assert len(shown(tmp_path / "a.mp4")) == 5
