"""What counts as changed between two LR frames: the rule as written, on frames that are no whole number of tiles."""

import numpy as np
import pytest
import torch

from model.device import one_thread
from model.mask.changes import QUARTER, Grid, Picture, changed
from model.network.folding import fold_frames
from model.routing import TILE, Preset


def by_definition(now: np.ndarray, seen: np.ndarray, numbers: Preset, fold: int = 1) -> np.ndarray:
    """`changed`, tile by tile and quarter by quarter."""
    side, half = TILE * fold, QUARTER * fold
    weights = np.array([[0.299, -0.169, 0.5], [0.587, -0.331, -0.419], [0.114, 0.5, -0.081]])
    scale = 255.0 / np.iinfo(now.dtype).max
    difference = (now.astype(np.float64) - seen) @ weights * scale
    height, width = now.shape[:2]
    tiles = np.zeros((-(-height // side), -(-width // side)), np.bool_)
    for y, x in np.ndindex(tiles.shape):
        quarters = [
            part
            for top in (0, half)
            for left in (0, half)
            if (part := difference[_span(y, top, height, side), _span(x, left, width, side)]).size
        ]
        mean = np.mean([np.abs(part).mean((0, 1)) for part in quarters], axis=0)
        drift = np.mean([abs(part[..., 0].mean()) for part in quarters])
        tiles[y, x] = mean[0] > numbers.luma or max(mean[1:]) > numbers.chroma or drift > numbers.drift
    for y, x in np.ndindex(-(-height // half), -(-width // half)):
        part = np.abs(difference[y * half :, x * half :, 0][:half, :half])
        if part.mean() > numbers.detail:
            near = [slice(max(at - numbers.reach, 0) // 2, (at + numbers.reach) // 2 + 1) for at in (y, x)]
            tiles[near[0], near[1]] = True
    return tiles


def _span(tile: int, offset: int, length: int, side: int) -> slice:
    start = tile * side + offset
    return slice(min(start, length), min(start + side // 2, length))


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (13, 21), (21, 37), (3, 5), (12, 12)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize("fold", [1, 2])
def test_changed_is_what_the_rule_says(size: tuple[int, int], dtype: type, reach: int, fold: int) -> None:
    size = (fold * size[0], fold * size[1])
    rng = np.random.default_rng([*size, reach])
    numbers = Preset(reach=reach)
    unit = np.iinfo(dtype).max // 255
    for noise, step in ((1, 0), (3, 2), (2, 40), (0, 200)):
        seen = rng.integers(40, 200, (*size, 3))
        now = seen + rng.integers(-noise, noise + 1, seen.shape)
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        now[y : y + 3, x : x + 2] = np.minimum(now[y : y + 3, x : x + 2] + step, 255)
        pair = [torch.from_numpy((frame * unit).astype(dtype)) for frame in (now, seen)]
        folded = [fold_frames(frame, fold) for frame in pair]
        grid = Grid.of(folded[0])
        found = changed(*(Picture.of(frame, grid) for frame in folded), grid, numbers)
        assert (found == by_definition(pair[0].numpy(), pair[1].numpy(), numbers, fold)).all()


def test_a_change_within_feature_pixels_counts() -> None:
    board = torch.from_numpy(np.indices((32, 32)).sum(0) % 2 * 100).to(torch.uint8)[..., None].expand(-1, -1, 3)
    now, seen = fold_frames(100 - board, 2), fold_frames(board, 2)  # all means stay
    grid = Grid.of(now)
    assert changed(Picture.of(now, grid), Picture.of(seen, grid), grid, Preset()).all()


def test_what_was_computed_is_what_is_compared_next() -> None:
    rng = np.random.default_rng(1)
    old, new = (torch.from_numpy(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(2))
    grid = Grid.of(old)
    before, now = Picture.of(old, grid), Picture.of(new, grid)
    where = np.zeros((3, 4), np.bool_)
    assert before.updated(where, now) is before
    where[1, 2] = True
    after = before.updated(where, now)
    assert changed(after, before, grid, Preset(reach=0)).tolist() == where.tolist()
    assert changed(after, now, grid, Preset(reach=0)).tolist() == (~where).tolist()
    assert before.updated(where | True, now) is now


def test_one_thread_gives_the_threads_back() -> None:
    threads = torch.get_num_threads()
    seen = []

    @one_thread()
    def failing() -> None:
        seen.append(torch.get_num_threads())
        raise ValueError("planned")

    with pytest.raises(ValueError, match="planned"):
        failing()
    assert (seen, torch.get_num_threads()) == ([1], threads)
