"""Folding moves pixels into channels and back, for any size and number format."""

import pytest
import torch
import torch.nn.functional as F

from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.folding import fold, fold_frames, means, padded, unfold
from model.network.macs import macs_per_frame


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (6, 7), (1, 1)])
def test_unfolding_returns_the_image_and_repeats_of_its_last_lines(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    folded = fold(x, 2)
    assert folded.shape == (2, 12, -(-size[0] // 2), -(-size[1] // 2))
    more = [-side % 2 for side in size]
    assert torch.equal(unfold(folded, 2), F.pad(x, (0, more[1], 0, more[0]), mode="replicate"))
    assert torch.allclose(means(folded)[..., 0, 0], unfold(folded, 2)[..., :2, :2].mean((-2, -1)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_frames_of_integers_fold_as_images_do(dtype: torch.dtype) -> None:
    frames = torch.randint(0, 256, (3, 5, 7, 3)).to(dtype)
    expected = fold(frames.permute(0, 3, 1, 2).float(), 2)
    assert torch.equal(fold_frames(frames, 2).permute(0, 3, 1, 2).float(), expected)


@pytest.mark.parametrize("f", [1, 2])
def test_padding_repeats_the_outermost_pixels(f: int) -> None:
    x = torch.rand(1, 3, 6, 8)
    assert torch.equal(unfold(padded(fold(x, f), f), f), F.pad(x, (f, f, f, f), mode="replicate"))


def test_without_a_fold_nothing_changes() -> None:
    x, frames = torch.rand(1, 3, 5, 7), torch.zeros(2, 5, 7, 3, dtype=torch.uint8)
    assert fold(x, 1) is x
    assert unfold(x, 1) is x
    assert fold_frames(frames, 1) is frames


@pytest.mark.parametrize("flow", ["light", "spynet"])
@pytest.mark.parametrize("tail", ["light", "full"])
@pytest.mark.parametrize("size", [(16, 24), (17, 23)])
def test_a_network_for_two_doubles_frames_of_any_size(flow: str, tail: str, size: tuple[int, int]) -> None:
    network = BasicVSR(NetworkConfig(8, 1, flow, tail, coupled=tail == "light", scale=2)).eval()  # type: ignore[arg-type]
    with torch.inference_mode():
        hr = network(torch.rand(1, 3, 3, *size))
    assert hr.shape == (1, 3, 3, 2 * size[0], 2 * size[1])


@pytest.mark.parametrize(("tail", "stride"), [("full", 8), ("light", 6), ("light", 0), ("light", 64)])
def test_other_strides_are_refused(tail: str, stride: int) -> None:
    with pytest.raises(ValueError, match="stride"):
        BasicVSR(NetworkConfig(8, 1, "light", tail, stride=stride))  # type: ignore[arg-type]


def test_a_network_for_two_takes_a_quarter_of_the_work() -> None:
    two, four = (BasicVSR(NetworkConfig(32, 4, "light", "light", True, scale)) for scale in (2, 4))
    assert macs_per_frame(four, 64, 96) / macs_per_frame(two, 64, 96) == pytest.approx(4, rel=0.05)
