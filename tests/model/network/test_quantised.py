"""Convolutions on integers: right numbers, whatever the threads and the size, and nothing for copies and training."""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.device import inference_copy
from model.errors import BadWeights
from model.gates.cells import run_cells
from model.network import quantised
from model.network.basicvsr import BasicVSR, Blocks, NetworkConfig, ResidualBlock
from model.network.flow import PyramidLevel
from model.network.kernels import convolve_all, with_remainder
from model.network.quantised import Quantisation, QuantisedConv
from model.training.quantise import Sample, calibrate, chosen, flow_convolutions
from model.zoo.scales import quantise

pytestmark = pytest.mark.skipif(not quantised.exact(), reason="this machine lacks exact products of integers")


def features(*shape: int) -> Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return made.contiguous(memory_format=torch.channels_last)


def sampled(x: Tensor) -> Sample:
    sample = Sample()
    sample.add(x.permute(0, 2, 3, 1).flatten(0, 2))
    return sample


def blocks(count: int, channels: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Blocks, Blocks]:
    """The same blocks twice: plain, and on integers."""
    torch.manual_seed(3)
    plain = Blocks(*(ResidualBlock(channels) for _ in range(count))).requires_grad_(False)
    made = copy.deepcopy(plain).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = features(1, channels, 24, 24)
    for block, fast in zip(plain, made, strict=True):
        hidden = torch.relu(block.conv1(x))
        of_first, of_second = chosen(block.conv1, sampled(x)), chosen(block.conv2, sampled(hidden))
        convs = QuantisedConv(block.conv1, of_first, of_second.gain), QuantisedConv(block.conv2, of_second)
        quantised.quantise_block(fast, *convs)
        x = block(x)
    return plain, made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("zero", [0, 8, 128, 254])
def test_integers_are_rounded_to_the_nearest_and_clipped(zero: int, dtype: torch.dtype) -> None:
    x, gain = (features(2, 8, 5, 7) * 40).to(dtype), torch.linspace(0.5, 4, 8)
    kept = x.clone()
    seen = quantised.integers(x, zero, gain)
    assert seen.is_contiguous(memory_format=torch.channels_last)
    wanted = (x.float() * gain.view(-1, 1, 1)).round().add(zero).clamp(0, 255)  # an odd zero would move ties
    assert torch.equal(seen.float(), wanted)
    assert torch.equal(x, kept)


def test_slices_change_no_integer(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(1, 8, 40, 60)
    whole = quantised.integers(x, 100, torch.full((8,), 50.0))
    monkeypatch.setattr(quantised, "SLICE", 512)
    assert torch.equal(quantised.integers(x, 100, torch.full((8,), 50.0)), whole)


@pytest.mark.parametrize("zero", [0, 100])
def test_a_convolution_pads_with_what_stands_for_zero(zero: int) -> None:
    conv = torch.nn.Conv2d(8, 16, 3, 1, 1).requires_grad_(False)
    gain = torch.linspace(0.5, 4, 8)
    scale = (conv.weight / gain.view(-1, 1, 1)).abs().amax((1, 2, 3)) / 127
    x = torch.randint(0, 256, (1, 8, 6, 5), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    following = torch.linspace(20, 80, 16)
    numbers = Quantisation(zero, gain, scale, conv.bias)
    made, first = QuantisedConv(conv, numbers), QuantisedConv(conv, numbers, following)
    integers = quantised.rounded(conv.weight / gain.view(-1, 1, 1), scale)
    conv.weight.copy_(integers * scale.view(-1, 1, 1, 1) * gain.view(-1, 1, 1))
    wanted = conv((x.float() - zero) / gain.view(-1, 1, 1))
    with torch.inference_mode():
        assert torch.allclose(made.floats(x, torch.float32), wanted, atol=1e-3)
        onto = features(1, 16, 6, 5)
        assert torch.allclose(made.onto(x, onto.clone(memory_format=torch.channels_last)), onto + wanted, atol=1e-3)
        into = first.into(x, 3).float()
        assert (into - (wanted.relu() * following.view(-1, 1, 1) + 3).round().clamp(0, 255)).abs().max() <= 1


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


@pytest.mark.parametrize("places", [(0,), (2, 4, 6), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_chain_on_integers_comes_close(places: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    plain = PyramidLevel().requires_grad_(False).basic_module
    x = features(1, 8, 24, 32)
    inputs = [x]
    for layer in plain:
        inputs.append(layer(inputs[-1].clone()))  # the ReLU works in place
    made = copy.deepcopy(plain).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    numbers = {place: chosen(plain[place], sampled(inputs[place])) for place in places}
    gains = {place: numbers[place + 2].gain if place + 2 in numbers else None for place in places}
    chain = {place: QuantisedConv(plain[place], own, gains[place]) for place, own in numbers.items()}
    quantised.quantise_chain(made, chain)
    with torch.inference_mode():
        found = convolve_all(made, x.to(dtype))
        assert found.dtype == dtype
        assert (found.float() - inputs[-1]).square().mean() < 1e-3 * inputs[-1].square().mean()
        assert not torch.equal(found.float(), inputs[-1])
    assert torch.equal(convolve_all(made, x.to(dtype)), made(x.to(dtype).clone())), "training computes without integers"


@pytest.mark.parametrize("flow", ["light", "spynet"])
def test_scales_of_the_flow_reach_the_flow(flow: Literal["light", "spynet"]) -> None:
    weights = BasicVSR(NetworkConfig(8, 1, flow=flow)).requires_grad_(False).eval()
    lr = torch.rand(1, 2, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    clip = (lr[0].permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()
    scales = calibrate(weights, flow_convolutions(weights), [clip])
    made = copy.deepcopy(weights)
    quantise(made, weights, scales)
    with torch.inference_mode():
        wanted, found = weights.flow(lr[:, 0], lr[:, 1]), made.flow(lr[:, 0], lr[:, 1])
    assert quantised.has_integers(made)
    assert not quantised.has_integers(copy.deepcopy(made))
    assert torch.allclose(found, wanted, atol=0.1)
    last = sorted(scales)[-1]
    wrong = f"{last.rpartition('.')[0]}.{len(weights.get_submodule(last.rpartition('.')[0])) - 1}"  # type: ignore[arg-type]
    with pytest.raises(BadWeights, match="no ReLU behind"):
        quantise(copy.deepcopy(weights), weights, {wrong: scales[last]})


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


def test_the_order_in_memory_changes_no_integer() -> None:
    x, gain = features(2, 8, 6, 9), torch.full((8,), 30.0)
    assert torch.equal(quantised.integers(x.contiguous(), 64, gain), quantised.integers(x, 64, gain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_upsampler_on_integers_comes_close(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    plain = BasicVSR(NetworkConfig(16, 1)).requires_grad_(False)
    names, x = ("upconv1", "upconv2", "conv_hr", "conv_last"), features(1, 16, 12, 20)
    inputs = [x]
    for conv in (plain.upconv1, plain.upconv2):
        inputs.append(functional.leaky_relu(functional.pixel_shuffle(conv(inputs[-1]), 2), 0.1))
    inputs.append(functional.leaky_relu(plain.conv_hr(inputs[-1]), 0.1))
    scales = {name: chosen(getattr(plain, name), sampled(y)) for name, y in zip(names, inputs, strict=True)}
    for some in (*((name,) for name in names), names):
        floats, made = (inference_copy(plain, torch.device("cpu"), dtype) for _ in range(2))
        quantise(made, plain, {name: scales[name] for name in some})
        with torch.inference_mode():
            wanted, found = plain._upsampled(x), made._upsampled(x.to(dtype)).float()
            assert not torch.equal(found, floats._upsampled(x.to(dtype)).float())
            assert (found - wanted).square().mean() < 1e-3 * wanted.var()


@pytest.mark.parametrize("remainder", [False, True])
def test_parts_are_stacked_as_the_integers_of_the_whole(remainder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = torch.nn.Conv2d(11, 16, 3, 1, 1).requires_grad_(False)
    levels = torch.arange(2 * 3 * 6 * 9).remainder(256).view(2, 3, 6, 9) / 255
    rest = features(2, 8, 6, 9).bfloat16()
    whole = torch.cat([levels, rest.float()], 1).contiguous(memory_format=torch.channels_last)
    numbers = chosen(conv, sampled(whole))
    made = copy.deepcopy(conv).bfloat16()
    quantised.quantise_convolution(made, [QuantisedConv(conv, numbers)])
    first = with_remainder(levels, torch.bfloat16) if remainder else levels
    for size in (quantised.SLICE, 77):
        monkeypatch.setattr(quantised, "SLICE", size)
        with torch.inference_mode():
            seen = quantised.stacked_on_integers(made, (first, rest))
            assert seen is not None
            wanted = quantised.integers(whole, numbers.zero, numbers.gain)
            assert (seen.float() - wanted.float()).abs().max() <= int(remainder)  # a tie may fall either way
            assert (seen != wanted).float().mean() < 0.01
            found = quantised.convolved_on_integers(made, seen)
        assert found is not None
        assert found[0].dtype == torch.bfloat16
        error = found[0].float() - conv(whole)
        assert error.square().mean() < 1e-3 * conv(whole).var()
    assert quantised.stacked_on_integers(made, (first, rest)) is None  # in training
    with torch.inference_mode():
        assert quantised.stacked_on_integers(conv, (first, rest)) is None
