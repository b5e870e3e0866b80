"""Rotation, mirroring and offset of the shown picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.orientation import decomposed, scaled
from media.probe import probe
from tests.support.media import upscale, write_clip

U, W = 1 << 16, 1 << 30
TURNED = (0, U, 0, -U, 0, 0, 0, 0, W)


def _clip(path: Path, matrix: tuple[int, ...], **facts: Any) -> Path:
    return write_clip(path, times=range(3), prepare=lambda _, video: video.set_display_matrix(matrix), **facts)


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_an_offset_grows_with_the_picture(tmp_path: Path, container: str) -> None:
    """Phones write portrait videos with the height as the offset."""
    source = _clip(tmp_path / "in.mp4", (*TURNED[:6], 24 * U, 3 * U, W))
    for scale in (2, 3):
        after = probe(upscale(source, tmp_path, container=container, scale=scale).path).video
        assert after.display_matrix == (*TURNED[:6], scale * 24 * U, scale * 3 * U, W)
        assert after.rotation == 90


def test_an_offset_fits_a_rounded_size() -> None:
    """161×121 at 3× is 484×364: a turned picture still begins at zero."""
    before, after = (121, Fraction(161)), (364, Fraction(484))
    turned = scaled((*TURNED[:6], 121 * U, 0, W), before, after, Fraction(3))
    assert turned == (*TURNED[:6], 364 * U, 0, W)
    other_way = scaled((0, -U, 0, U, 0, 0, 0, 161 * U, W), before, after, Fraction(3))
    assert other_way == (0, -U, 0, U, 0, 0, 0, 484 * U, W)
    assert scaled((U, 0, 0, 0, U, 0, 2**31 - 1, 0, W), before, after, Fraction(4))[6] == 2**31 - 1


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_all_numbers_of_a_mirrored_or_stretched_picture_are_kept(tmp_path: Path, container: str) -> None:
    for matrix in ((0, U, 0, U, 0, 0, 0, 0, W), (0, 2 * U, 0, -U, 0, 0, 0, 0, W)):
        result = upscale(_clip(tmp_path / "in.mp4", matrix), tmp_path, container=container)
        assert probe(result.path).video.display_matrix == matrix


@pytest.mark.parametrize("container", ["mkv", "webm"])
def test_matroska_keeps_a_rotation_that_comes_with_a_stretch(tmp_path: Path, container: str) -> None:
    result = upscale(_clip(tmp_path / "in.mp4", (0, 2 * U, 0, -U, 0, 0, 0, 0, W)), tmp_path, container=container)
    after = probe(result.path).video
    assert (after.rotation, after.display_matrix) == (90, TURNED)
    assert after.width * after.sample_aspect_ratio == 2 * 2 * 32, "the stretch becomes the pixels' shape or number"
    assert len(result.warnings) == (container == "webm")


@pytest.mark.parametrize("container", ["mkv", "webm"])
@pytest.mark.parametrize(
    ("matrix", "rotation", "flip"),
    [
        ((-U, 0, 0, 0, U, 0, 0, 0, W), 0, "horizontal"),
        ((U, 0, 0, 0, -U, 0, 0, 0, W), 0, "vertical"),
        ((0, U, 0, U, 0, 0, 0, 0, W), 90, "vertical"),
        ((0, -U, 0, -U, 0, 0, 0, 0, W), 90, "horizontal"),
    ],
)
def test_matroska_gets_mirrored_pixels(
    tmp_path: Path, container: str, matrix: tuple[int, ...], rotation: int, flip: str
) -> None:
    """Players ignore Matroska's mirrored projections."""
    source = _clip(tmp_path / "in.mp4", matrix)
    result = upscale(source, tmp_path, container=container)
    after = probe(result.path).video
    assert (after.rotation, result.spec.flip, result.warnings) == (rotation, flip, ())
    plain = upscale(source, tmp_path, container="mp4")
    mirrored, kept = _first(result.path), _first(plain.path)
    unmirrored = mirrored[:, ::-1] if flip == "horizontal" else mirrored[::-1]
    assert np.abs(unmirrored.astype(int) - kept).mean() < 6
    assert np.abs(mirrored.astype(int) - kept).mean() > 20
    # The same corner of the shown picture holds the same pixel.
    parts = decomposed(matrix)
    assert parts is not None
    assert parts.matrix == (after.display_matrix or (U, 0, 0, 0, U, 0, 0, 0, W))


def _first(path: Path) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_a_skewed_picture_is_named(tmp_path: Path) -> None:
    assert decomposed((U, U, 0, 0, U, 0, 0, 0, W)) is None
    assert decomposed((0, 0, 0, 0, 0, 0, 0, 0, W)) is None
    result = upscale(_clip(tmp_path / "in.mp4", (U, U, 0, 0, U, 0, 0, 0, W)), tmp_path, container="mkv")
    assert result.warnings == ("The picture is shown skewed, which mkv can't hold.",)
