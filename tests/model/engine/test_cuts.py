"""A scene cut starts both branches anew, wherever it lies, and whatever the chunks are."""

import numpy as np
import pytest
import torch

from model.engine.upscaler import Upscaler, groups
from model.network.basicvsr import BasicVSR, NetworkConfig
from tests.support.paths import DATA

WATER = np.load(DATA / "water_lr.npy")[:, :32, :48]
SECOND = 255 - WATER[::-1]
"""The same moving water in other colours: nothing that could pass for a continuation."""


@pytest.fixture(scope="module")
def model() -> Upscaler:
    """Recurrence that matters, in both branches: one frame's features tell in the next."""
    torch.manual_seed(7)
    network = BasicVSR(NetworkConfig(channels=8, blocks=2, flow="light"))
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.5)
    return Upscaler("seeded", network, "seeded:7", torch.device("cpu"), torch.float32)


def stream(
    model: Upscaler, frames: np.ndarray, chunk: int, lookahead: int, routing: str = "off"
) -> tuple[np.ndarray, list[int]]:
    """Upscaled frames, and the cuts counted from the first."""
    state, out, cuts = None, [], []
    for group, last in groups(frames, chunk, lookahead):
        result = model.forward(np.stack(group), state, lookahead=lookahead, last=last, routing=routing)
        assert len(result.reports) == len(result.frames)
        cuts += [sum(map(len, out)) + cut for cut in result.scene_cuts]
        state = result.state
        out.append(result.frames)
    return np.concatenate(out), cuts


@pytest.mark.parametrize("routing", ["off", "balanced"])
@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("chunk", "lookahead"), [(12, 0), (3, 2), (2, 1)])
def test_a_cut_is_a_fresh_start(model: Upscaler, cut: int, chunk: int, lookahead: int, routing: str) -> None:
    """The cut lies inside a chunk, at its border, in the look-ahead or in held-back frames, as `cut` goes through.

    The first frame behind it is that of a fresh start with the same frames in sight, bit for bit.
    """
    frames = np.concatenate([WATER[:cut], SECOND[:4]])
    out, cuts = stream(model, frames, chunk, lookahead, routing)
    assert cuts == [cut]
    chunk_end = (cut // chunk + 1) * chunk + lookahead
    seen = frames[cut:chunk_end]
    fresh = model.forward(seen, None, lookahead=0, last=True, routing=routing)
    assert fresh.scene_cuts == []
    assert np.array_equal(out[cut], fresh.frames[0])


@pytest.mark.parametrize("chunk", [12, 3, 2])
def test_nothing_comes_back_from_behind_a_cut(model: Upscaler, chunk: int) -> None:
    both, _ = stream(model, np.concatenate([WATER[:4], SECOND[:4]]), chunk, 8)
    alone, _ = stream(model, WATER[:4], chunk, 8)
    assert np.array_equal(both[:4], alone)


def test_without_the_cut_it_would_bleed(model: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.concatenate([WATER[:3], SECOND[:3]])
    cut, _ = stream(model, frames, 6, 0)
    monkeypatch.setattr("model.engine.planning.find_scene_cuts", lambda frames, previous: [])
    bled, cuts = stream(model, frames, 6, 0)
    assert cuts == []
    assert np.abs(cut[3].astype(int) - bled[3]).max() > 2


def test_several_cuts_and_single_frames(model: Upscaler) -> None:
    frames = np.concatenate([WATER[:2], SECOND[:1], WATER[3:5], SECOND[2:4]])
    for chunk, lookahead in ((7, 0), (2, 2), (1, 0)):
        out, cuts = stream(model, frames, chunk, lookahead)
        assert cuts == [2, 3, 5]
        assert len(out) == 7
