"""The result's codec, if the user leaves the choice to us."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from media.probe import probe
from media.spec import output_spec
from tests.support.media import upscale, write_clip


@pytest.mark.parametrize(
    ("container", "pixel_format", "codec", "tag"),
    [
        ("mp4", "yuv420p", "h264", "avc1"),
        ("mp4", "yuv420p10le", "hevc", "hvc1"),  # Apple's players do not play hev1
        ("mov", "yuv420p10le", "hevc", "hvc1"),
        ("mkv", "yuv420p10le", "hevc", None),
        ("mkv", "gray16le", "hevc", None),
        ("webm", "yuv420p10le", "av1", None),
    ],
)
def test_more_than_eight_bits_become_hevc(
    tmp_path: Path, container: str, pixel_format: str, codec: str, tag: str | None
) -> None:
    source = write_clip(tmp_path / "in.mkv", codec="ffv1", pixel_format=pixel_format, times=range(3))
    result = upscale(source, tmp_path, container=container)
    video = probe(result.path).video
    assert (video.codec, result.spec.codec) == (codec, codec)
    assert video.bit_depth == (8 if pixel_format == "yuv420p" else 10)
    if tag:
        with av.open(str(result.path)) as opened:
            assert opened.streams.video[0].codec_tag == tag


def test_large_pictures_become_hevc(tmp_path: Path) -> None:
    """On every machine: estimates and results agree, and NVENC ends where hardware decoders of H.264 end."""
    narrow, source = (
        probe(write_clip(tmp_path / f"{width}.mp4", times=range(2), width=width, height=32)) for width in (2048, 2064)
    )
    at_limit, above = output_spec(narrow, scale=2), output_spec(source, scale=2)
    assert (at_limit.width, at_limit.codec, at_limit.warnings) == (4096, "h264", ())
    assert (above.width, above.codec) == (4128, "hevc")
    assert above.warnings == ("The result is HEVC: few devices play H.264 with more than 4096 pixels a side.",)
    wish = output_spec(source, scale=2, codec="h264")
    assert (wish.codec, wish.encoder) == ("h264", "libx264")
    assert wish.warnings == ("H.264 with more than 4096 pixels a side plays on few devices; HEVC plays on most.",)


def test_a_tiny_picture_and_a_wish_stay_h264(tmp_path: Path) -> None:
    tiny = write_clip(
        tmp_path / "tiny.mkv", codec="ffv1", pixel_format="yuv420p10le", width=6, height=6, times=range(2)
    )
    assert output_spec(probe(tiny), scale=2).codec == "h264"
    larger = write_clip(tmp_path / "in.mkv", codec="ffv1", pixel_format="yuv420p10le", times=range(2))
    (warning,) = output_spec(probe(larger), codec="h264").warnings
    assert "High 10" in warning
    assert output_spec(probe(larger), codec="hevc").warnings == ()
