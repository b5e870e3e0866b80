"""A cut is found where two pictures meet; motion, flashes and fades are none."""

import numpy as np
import pytest
import torch
from torch import Tensor

from model.engine.scene_cuts import find_scene_cuts

H, W = 72, 128


def picture(seed: int, width: int = W, low: float = 20, high: float = 235) -> Tensor:
    """Smooth random colours, as a photograph's large shapes: [H, width, 3] float."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, max(width // 14, 2), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (H, width), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)
    shade = 0.35 + 0.65 * torch.rand(3, generator=generator)  # each picture has its own palette
    return low + (high - low) * smooth * shade


def clip(*frames: Tensor) -> Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.stack(
        [(f + 2 * torch.randn(f.shape, generator=noise)).round().clamp(0, 255).to(torch.uint8) for f in frames]
    )


DARK, LIGHT = picture(3, high=110), picture(8, low=100)


def test_finds_each_cut_where_it_is() -> None:
    frames = clip(*[DARK] * 3, *[LIGHT] * 2, *[255 - LIGHT] * 4)
    assert find_scene_cuts(frames) == [3, 5]


def test_a_cut_to_black_and_one_from_it() -> None:
    black = torch.zeros(H, W, 3)
    assert find_scene_cuts(clip(LIGHT, LIGHT, black, black, LIGHT)) == [2, 4]


def test_the_frame_before_is_compared_with_the_first() -> None:
    frames = clip(DARK, DARK, LIGHT, LIGHT)
    assert find_scene_cuts(frames[2:], frames[1]) == [0]
    assert find_scene_cuts(frames[2:]) == []
    assert find_scene_cuts(frames[:1]) == []
    assert find_scene_cuts(frames[:0], frames[0]) == []


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_chunks_find_what_the_whole_finds(chunk: int) -> None:
    frames = clip(*[DARK] * 3, LIGHT, *[255 - LIGHT] * 3, *[DARK] * 2)
    found: list[int] = []
    for start in range(0, len(frames), chunk):
        previous = frames[start - 1] if start else None
        found += [start + i for i in find_scene_cuts(frames[start : start + chunk], previous)]
    assert found == find_scene_cuts(frames) == [3, 4, 7]


@pytest.mark.parametrize("strength", [60, 120, 255])
@pytest.mark.parametrize("length", [1, 3])
def test_a_flash_is_no_cut(strength: int, length: int) -> None:
    for scene in (DARK, LIGHT):
        flash = (scene + strength).clamp(max=255)
        assert find_scene_cuts(clip(scene, scene, *[flash] * length, scene, scene)) == []


def test_a_flash_that_leaves_half_of_the_frame_alone_is_no_cut() -> None:
    flash = DARK.clone()
    flash[:, W // 2 :] = 255
    assert find_scene_cuts(clip(DARK, flash, DARK)) == []


@pytest.mark.parametrize("share", [0.03, 0.1, 0.2])
def test_a_fast_pan_is_no_cut(share: float) -> None:
    step = int(W * share)
    for seed in range(4):
        panorama = picture(seed, W + 12 * step)
        assert find_scene_cuts(clip(*[panorama[:, i * step : i * step + W] for i in range(12)])) == []


def test_fades_and_dissolves_are_no_cuts() -> None:
    steps = [i / 12 for i in range(13)]
    assert find_scene_cuts(clip(*[LIGHT * (1 - s) for s in steps], *[LIGHT * s for s in steps])) == []
    assert find_scene_cuts(clip(*[DARK * (1 - s) + LIGHT * s for s in steps])) == []


def test_sixteen_bits_and_small_sizes() -> None:
    frames = clip(DARK, DARK, LIGHT)
    deep = torch.from_numpy(frames.numpy().astype(np.uint16) * 257)
    assert find_scene_cuts(deep) == find_scene_cuts(frames) == [2]
    for h, w in ((1, 1), (3, 40), (24, 32)):
        dark, light = torch.zeros(2, h, w, 3, dtype=torch.uint8), torch.full((1, h, w, 3), 200, dtype=torch.uint8)
        assert find_scene_cuts(torch.cat([dark, light])) == [2]
