"""Scales from clips: the same each time, good on what they were chosen from, and written by `skipvsr calibrate`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import cli
from model.engine.loading import load_model
from model.gates.estimator import Estimator, Layout
from model.network import quantised
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.quantised import LEVELS, has_integers, rounded
from model.training.quantise import Sample, block_convolutions, choices, chosen
from model.zoo.scales import load_scales
from model.zoo.weights_file import fingerprint, load_file
from tests.support.clips import make_clip
from tests.support.user_models import write_model


def test_the_chosen_numbers_keep_the_mean_and_lose_little() -> None:
    torch.manual_seed(5)
    conv = nn.Conv2d(16, 16, 3, 1, 1).requires_grad_(False)
    pixels, sample = torch.randn(4000, 16).exp_() * torch.logspace(-1, 1, 16), Sample()  # a long tail, unequal channels
    sample.add(pixels)
    found, again = chosen(conv, sample), chosen(conv, sample)
    assert (found.zero, found.gain.tolist(), found.bias.tolist()) == (
        again.zero,
        again.gain.tolist(),
        again.bias.tolist(),
    )
    assert found.zero == 0
    assert found.gain.max() > 2 * found.gain.min()
    gain = found.gain.view(-1, 1, 1)
    seen = (sample.pixels * found.gain).round().clamp(0, LEVELS)
    weight = rounded(conv.weight / gain, found.weight_scale) * found.weight_scale.view(-1, 1, 1, 1)
    taps, wanted = weight.sum((2, 3)), sample.pixels @ conv.weight.sum((2, 3)).T + conv.bias
    result = seen @ taps.T + found.bias
    assert torch.allclose(result.mean(0), wanted.mean(0), atol=1e-3)
    assert (result - wanted).square().mean() < 0.01 * wanted.var()


def test_no_peak_that_was_seen_is_cut() -> None:
    conv, pixels, sample = nn.Conv2d(4, 4, 3, 1, 1).requires_grad_(False), torch.full((90_000, 4), 0.1), Sample()
    pixels[777] = torch.tensor([9.0, 8.0, -7.0, 6.0])  # one of 90,000 pixels, hardly one of the sampled
    sample.add(pixels)
    found = chosen(conv, sample)
    assert bool(((pixels[777] * found.gain).round() + found.zero).ge(0).all())
    assert bool(((pixels[777] * found.gain).round() + found.zero).le(LEVELS).all())


@pytest.mark.parametrize(
    ("config", "count", "one"),
    [
        (NetworkConfig(8, 2, "light", "light", coupled=True), 17, "spynet.levels.3.body.2"),
        (NetworkConfig(8, 2), 17, "conv_hr"),
    ],
)
def test_blocks_and_the_layers_beside_them_get_scales(config: NetworkConfig, count: int, one: str) -> None:
    names = choices(BasicVSR(config))[0]
    assert len(names) == count
    assert one in names


@pytest.mark.skipif(not quantised.exact(), reason="this machine lacks exact products of integers")
def test_one_command_makes_the_scales_of_an_own_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKIPVSR_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setattr("model.zoo.scales.has_vnni", lambda: True)
    write_model(tmp_path / "weights")
    (tmp_path / "clips").mkdir()
    make_clip(tmp_path / "clips/one.mp4", frames=3, width=64, height=48)
    assert cli.main(["calibrate", "mine", "--clips", str(tmp_path / "clips"), "--frames", "2"]) == 0
    said = capsys.readouterr().out
    assert "scales of 13 convolutions" in said
    assert "one h264:23" in said
    assert (tmp_path / "weights/int8-mine.safetensors").stat().st_mode & 0o044 == 0o044
    model = load_model("mine", weights_dir=tmp_path / "weights", device="cpu", precision="int8", threads=1)
    assert model.precision == "int8"
    (tmp_path / "clips/one.mp4").write_bytes(b"no video" * 99)
    assert cli.main(["calibrate", "mine", "--clips", str(tmp_path / "clips")]) == 1
    assert "one.mp4: cannot be decoded" in capsys.readouterr().err


@pytest.mark.skipif(not quantised.exact(), reason="this machine lacks exact products of integers")
def test_adapted_weights_get_scales_from_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, clips = tmp_path / "weights", tmp_path / "clips"
    monkeypatch.setenv("SKIPVSR_WEIGHTS_DIR", str(folder))
    network = load_file(write_model(folder))
    gates = Estimator(network.config, Layout(((0, 1),), ((0, 1),), tail=False, kernel=1), network)
    gates.save(folder / "skip-mine.safetensors", fingerprint("mine", folder / "mine.safetensors"))
    clips.mkdir()
    make_clip(clips / "one.mp4", frames=3, width=64, height=48)
    assert cli.main(["calibrate", "mine", "--clips", str(clips), "--frames", "2"]) == 0
    said = capsys.readouterr().out
    assert "scales of 13 adapted convolutions" in said
    assert all(f"one h264:23 {routing} " in " ".join(said.split()) for routing in ("off", "balanced", "fast"))
    assert "largest loss with gates" in said
    for again in (False, True):
        if again:  # another estimator: its adapted weights have no scales yet
            gates.save(folder / "skip-mine.safetensors", fingerprint("mine", folder / "mine.safetensors"), {"a": "b"})
        model = load_model("mine", weights_dir=folder, device="cpu", precision="int8", threads=1)
        assert model.estimator is not None
        assert model.estimator.adapted is not None
        assert has_integers(model.estimator.adapted) is not again
        assert (model.preset("fast").backward_error_budget > 0) is not again


def test_each_choice_computes_less_on_integers_and_keeps_the_blocks() -> None:
    for config in (NetworkConfig(8, 2, "light", "light", coupled=True), NetworkConfig(8, 2)):
        network = BasicVSR(config)
        found = choices(network)
        assert all(set(each) <= set(found[0]) for each in found)
        assert found[-1] == block_convolutions(network)


@pytest.mark.skipif(not quantised.exact(), reason="this machine lacks exact products of integers")
@pytest.mark.parametrize(("losses", "kept"), [([0.05, 0.02, 0.01, 0.0], 1), ([0.05, 0.06, 0.04, 0.045], 2)])
def test_convolutions_beside_the_blocks_keep_floats_where_integers_lose_too_much(
    losses: list[float], kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPVSR_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setattr("model.zoo.scales.has_vnni", lambda: True)
    write_model(tmp_path)
    (tmp_path / "clips").mkdir()
    make_clip(tmp_path / "clips/one.mp4", frames=2, width=64, height=48)
    told = [each for loss in losses for each in (loss, 0.0)]  # clean and compressed
    monkeypatch.setattr("commands.calibrate._loss", lambda *_: told.pop(0))
    assert cli.main(["calibrate", "mine", "--clips", str(tmp_path / "clips"), "--frames", "2"]) == 0
    path = tmp_path / "mine.safetensors"
    scales = load_scales(tmp_path / "int8-mine.safetensors", fingerprint("mine", path))
    assert scales is not None
    assert set(scales.numbers) == set(choices(load_file(path))[kept])
    assert scales.loss == losses[kept]
