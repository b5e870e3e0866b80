"""Scales from clips: the same each time, good on what they were chosen from, and written by `skipvsr calibrate`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import cli
from model.engine.upscaler import load_model
from model.gates.estimator import Estimator, Layout
from model.network import quantised
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.network.quantised import LEVELS, has_integers, rounded
from model.training.quantise import block_convolutions, chosen
from model.zoo.weights_file import fingerprint, load_file
from tests.support.clips import make_clip
from tests.support.user_models import write_model


def test_the_chosen_numbers_keep_the_mean_and_lose_little() -> None:
    torch.manual_seed(5)
    conv = nn.Conv2d(16, 16, 3, 1, 1).requires_grad_(False)
    sample = torch.randn(4000, 16).exp_()  # a long tail
    found, again = chosen(conv, sample), chosen(conv, sample)
    assert (found.range, found.bias.tolist()) == (again.range, again.bias.tolist())
    assert found.range.zero == 0
    seen = (sample / found.range.scale).round().clamp(0, LEVELS) * found.range.scale
    weight = rounded(conv.weight, found.weight_scale) * found.weight_scale.view(-1, 1, 1, 1)
    taps, wanted = weight.sum((2, 3)), sample @ conv.weight.sum((2, 3)).T + conv.bias
    result = seen @ taps.T + found.bias
    assert torch.allclose(result.mean(0), wanted.mean(0), atol=1e-3)
    assert (result - wanted).square().mean() < 0.01 * wanted.var()


def test_all_convolutions_of_blocks_get_scales() -> None:
    names = block_convolutions(BasicVSR(NetworkConfig(8, 2, "light", "light", coupled=True)))
    assert len(names) == 8
    assert "backward_trunk.main.2.1.conv2" in names


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
    assert "scales of 4 convolutions" in said
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
    assert "scales of 4 adapted convolutions" in said
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
