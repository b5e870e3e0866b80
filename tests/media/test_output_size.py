"""The result's size, if the user leaves the choice to us."""

from __future__ import annotations

from dataclasses import replace

import pytest

from media.probe import MediaInfo, probe
from media.spec import output_spec
from tests.support.media import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> MediaInfo:
    return probe(write_clip(tmp_path_factory.mktemp("clips") / "in.mp4", times=range(2)))


def sized(clip: MediaInfo, width: int, height: int) -> MediaInfo:
    return replace(clip, video=replace(clip.video, width=width, height=height))


@pytest.mark.parametrize(
    ("source", "scale", "result"),
    [
        ((640, 360), 4, (2560, 1440)),
        ((960, 540), 4, (3840, 2160)),
        ((1280, 720), 4, (3840, 2160)),
        ((1920, 1080), 4, (3840, 2160)),
        ((1080, 1920), 4, (2160, 3840)),  # portrait: the shorter side counts
        ((1920, 1088), 4, (3812, 2160)),
        ((2560, 1440), 4, (3840, 2160)),
        ((4096, 2160), 4, (4096, 2160)),
        ((640, 360), 2, (1280, 720)),  # a user model
        ((1280, 720), 2, (2560, 1440)),
        ((1440, 1440), 2, (2160, 2160)),
    ],
)
def test_the_shorter_side_has_at_most_2160_pixels(
    clip: MediaInfo, source: tuple[int, int], scale: int, result: tuple[int, int]
) -> None:
    spec = output_spec(sized(clip, *source), model_scale=scale)
    assert (spec.width, spec.height) == result
    if result == (scale * source[0], scale * source[1]):
        assert spec.warnings == ()
    else:
        (warning,) = spec.warnings
        assert f"{result[0]}×{result[1]}" in warning
        assert f"choose the scale {scale}" in warning


def test_a_wish_is_kept(clip: MediaInfo) -> None:
    large = sized(clip, 1920, 1080)
    spec = output_spec(large, scale=4, model_scale=2, codec="hevc")
    assert ((spec.width, spec.height), spec.warnings) == ((7680, 4320), ())
    spec = output_spec(large, height=2200)
    assert (spec.height, spec.warnings) == (2200, ())
