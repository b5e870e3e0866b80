"""Convolutions on integers: right numbers, whatever the threads and the size, and nothing for copies and training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from model.gates.cells import run_cells
from model.network import quantised
from model.network.basicvsr import Blocks, ResidualBlock
from model.network.quantised import Quantisation, QuantisedConv, Range
from model.training.quantise import chosen

pytestmark = pytest.mark.skipif(not quantised.exact(), reason="this machine lacks exact products of integers")


def features(*shape: int) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return made.contiguous(memory_format=torch.channels_last)


def blocks(count: int, channels: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Blocks, Blocks]:
    """The same blocks twice: plain, and on integers."""
    torch.manual_seed(3)
    plain = Blocks(*(ResidualBlock(channels) for _ in range(count))).requires_grad_(False)
    made = copy.deepcopy(plain).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = features(1, channels, 24, 24)
    for block, fast in zip(plain, made, strict=True):
        hidden = torch.relu(block.conv1(x))
        pixels = (y.permute(0, 2, 3, 1).flatten(0, 2) for y in (x, hidden))
        convs = [
            QuantisedConv(conv, conv.weight, chosen(conv, y)) for conv, y in zip(block.children(), pixels, strict=True)
        ]
        quantised.quantise_block(fast, *convs)
        x = block(x)
    return plain, made


@pytest.mark.parametrize("zero", [0, 7, 128, 255])
def test_integers_are_rounded_to_the_nearest_and_clipped(zero: int) -> None:
    x = features(2, 8, 5, 7) * 40
    seen = quantised.integers(x, Range(0.25, zero))
    assert seen.is_contiguous(memory_format=torch.channels_last)
    wanted = (x / 0.25).round().add(zero).clamp(0, 255)
    assert (seen.float() - wanted).abs().max() <= 1  # a tie may fall either way
    assert (seen.float() == wanted).float().mean() > 0.99


def test_slices_change_no_integer(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(1, 8, 40, 60)
    whole = quantised.integers(x, Range(0.02, 100))
    monkeypatch.setattr(quantised, "SLICE", 512)
    assert torch.equal(quantised.integers(x, Range(0.02, 100)), whole)


@pytest.mark.parametrize("zero", [0, 100])
def test_a_convolution_pads_with_what_stands_for_zero(zero: int) -> None:
    conv = torch.nn.Conv2d(8, 16, 3, 1, 1).requires_grad_(False)
    scale = conv.weight.abs().amax((1, 2, 3)) / 127
    x = torch.randint(0, 256, (1, 8, 6, 5), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    made = QuantisedConv(conv, conv.weight, Quantisation(Range(0.5, zero), scale, conv.bias))
    conv.weight.copy_(quantised.rounded(conv.weight, scale) * scale.view(-1, 1, 1, 1))
    wanted = conv((x.float() - zero) * 0.5)
    with torch.inference_mode():
        assert torch.allclose(made.floats(x, torch.float32), wanted, atol=1e-4)
        onto = features(1, 16, 6, 5)
        assert torch.allclose(made.onto(x, onto.clone(memory_format=torch.channels_last)), onto + wanted, atol=1e-4)
        into = made.into(x, Range(0.25, 3))
        assert (into.float() - (wanted.relu() / 0.25 + 3).round().clamp(0, 255)).abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_on_integers_come_close_and_keep_what_they_are_given(dtype: torch.dtype) -> None:
    plain, made = blocks(3, dtype=dtype)
    x = features(1, 16, 24, 24).to(dtype)
    kept = x.clone()
    with torch.inference_mode():
        wanted, found = plain(x.float()), made(x).float()
        assert torch.equal(x, kept)
        assert not torch.equal(found, wanted)
        assert (found - wanted).square().mean() < 2e-4 * wanted.square().mean()
        assert torch.equal(made(x, overwrite=True).float(), found)
        assert not torch.equal(x, kept)


def test_a_crop_of_a_frame_counts_as_the_frame() -> None:
    _, made = blocks(1)
    x = features(1, 16, 30, 40)
    with torch.inference_mode():
        whole, crop = made(x), made(x[..., 5:25, 10:40])
        assert torch.equal(crop[..., 2:-2, 2:-2], whole[..., 7:23, 12:38])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cells_of_a_frame_count_as_the_frame(dtype: torch.dtype) -> None:
    """A halo of four pixels is all that two blocks see."""
    _, made = blocks(2, dtype=dtype)
    x = features(1, 16, 40, 60).to(dtype)
    chosen_cells = np.array([[True, False, True], [False, True, False]])
    inside = torch.from_numpy(chosen_cells).repeat_interleave(20, 0).repeat_interleave(20, 1)
    with torch.inference_mode():
        whole, found = made(x), run_cells(made, x, torch.zeros_like(x), chosen_cells, 4)
        assert torch.equal(found, torch.where(inside, whole, 0))


def test_threads_change_no_number() -> None:
    _, made = blocks(2)
    x, threads = features(1, 16, 33, 47), torch.get_num_threads()
    with torch.inference_mode():
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(made(x))
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_copies_and_training_compute_without_integers() -> None:
    plain, made = blocks(1)
    x = features(1, 16, 9, 9)
    assert torch.equal(made(x), plain(x))
    copied = copy.deepcopy(made)
    with torch.inference_mode():
        assert torch.equal(copied(x), plain(x))
        assert not torch.equal(made(x), plain(x))


def test_a_torch_without_the_operations_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "_empty_quantised", lambda *_: torch._no_such_operation)
    quantised.exact.cache_clear()
    assert not quantised.exact()
    monkeypatch.undo()
    quantised.exact.cache_clear()
    assert quantised.exact()
