"""Adapting a network to its gates: it learns, the heads stay, a run goes on, and the engine runs what came out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from commands import train_skip
from commands.shared.errors import CommandError
from model.engine.upscaler import Upscaler
from model.errors import BadWeights, ConfigError
from model.gates.estimator import Estimator, load_estimator
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.routing import Preset
from model.training.checkpoint import read_log
from model.training.config import TrainConfig
from model.training.fit_estimator import Clip, all_gates, fit, fit_heads, layout, measure
from model.training.loop import run
from model.zoo.models import load_network
from model.zoo.weights_file import fingerprint, load_file, save_network
from tests.support.clips import make_clip
from tests.support.squares import pack_squares

CONFIG = """
seed = 3
init = "{init}"
warmup = 2
log_every = 2
val_every = 6
checkpoint_every = 4
photo_share = 1.0
precision = "fp32"
threads = 1
[network]
channels = 8
blocks = 2
[gates]
init = "{gates}"
error_budget = 0.5
[data]
photos = ["photos"]
[[stages]]
steps = 12
batch = 2
frames = 3
patch = 16
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache, a network's weights, an estimator fitted to them, and a configuration."""
    folder = tmp_path_factory.mktemp("gates")
    clips = [Clip(str(i), lr, hr) for i, (lr, hr) in enumerate(pack_squares(folder))]
    torch.manual_seed(1)
    network = BasicVSR(NetworkConfig(8, 2, "light", "light", coupled=True)).eval().requires_grad_(False)
    save_network(network, folder / "weights.safetensors")
    estimator = Estimator(network.config, layout(network.config)).requires_grad_(False)
    with torch.inference_mode():
        fit(network, estimator, clips, error_budget=0.5, rounds=0, say=lambda _: None)
    estimator.save(folder / "gates.safetensors", fingerprint("weights", folder / "weights.safetensors"))
    names = {"init": folder / "weights.safetensors", "gates": folder / "gates.safetensors"}
    (folder / "config.toml").write_text(CONFIG.format(**names))
    return folder


def trained(fitted: Path, out: Path, *, stop_at: int | None = None, config: str = "config.toml") -> Estimator | None:
    run(TrainConfig.load(fitted / config), fitted, out, lambda line: None, stop_at)
    origin = fingerprint("weights", fitted / "weights.safetensors")
    if stop_at is not None:
        return None
    return load_estimator(out / "last.safetensors", origin, load_file(fitted / "weights.safetensors"))


def test_network_and_surrogates_move_and_heads_stay(fitted: Path, tmp_path: Path) -> None:
    origin = load_file(fitted / "weights.safetensors")
    named = fingerprint("weights", fitted / "weights.safetensors")
    before, after = load_estimator(fitted / "gates.safetensors", named, origin), trained(fitted, tmp_path)
    assert before is not None
    assert before.adapted is None
    assert after is not None
    assert after.adapted is not None
    assert after.layout == before.layout
    moved = {name for name, value in after.adapted.state_dict().items() if not value.equal(origin.state_dict()[name])}
    assert {"backward_trunk.main.0.weight", "conv_last.weight"} <= moved
    for gate, old in zip(after.forward_gates, before.forward_gates, strict=True):
        for name, value in gate.state_dict().items():
            assert value.equal(old.state_dict()[name]) == name.startswith("head."), name
    rows = read_log(tmp_path / "log.jsonl")
    assert 0 < rows[-1]["skipped_bi"] <= 1
    assert rows[-1]["loss"] > 0


def test_trunks_alone_are_adapted_and_kept(fitted: Path, tmp_path: Path) -> None:
    """Of a large network: the flow and the upsampler stay, and are not stored a second time."""
    text = (fitted / "config.toml").read_text().replace("[gates]", '[gates]\nadapt = "trunks"')
    (fitted / "trunks.toml").write_text(text)
    after, origin = trained(fitted, tmp_path, config="trunks.toml"), load_file(fitted / "weights.safetensors")
    assert after is not None
    assert after.adapted is not None
    before = origin.state_dict()
    moved = {name for name, value in after.adapted.state_dict().items() if not value.equal(before[name])}
    trunks = {name for name in before if "_trunk." in name}
    assert {"backward_trunk.main.0.weight", "forward_trunk.main.0.weight"} <= moved <= trunks
    with safe_open(tmp_path / "last.safetensors", framework="pt") as file:
        stored = [key for key in file.keys() if key.startswith("adapted.")]  # noqa: SIM118
        assert set(stored) == {f"adapted.{name}" for name in trunks}
        assert {file.get_tensor(key).dtype for key in stored} == {torch.bfloat16}


def test_what_an_earlier_run_moved_is_kept_when_trunks_go_on_alone(fitted: Path, tmp_path: Path) -> None:
    first = trained(fitted, tmp_path / "first")
    gates = f'"{tmp_path}/first/last.safetensors"\nadapt = "trunks"'
    text = (fitted / "config.toml").read_text().replace(f'"{fitted}/gates.safetensors"', gates)
    (fitted / "again.toml").write_text(text)
    second = trained(fitted, tmp_path / "second", config="again.toml")
    assert first is not None
    assert second is not None
    assert first.adapted is not None
    assert second.adapted is not None
    before, after = first.adapted.state_dict(), second.adapted.state_dict()
    assert after["conv_last.weight"].equal(before["conv_last.weight"])
    assert not after["backward_trunk.main.0.weight"].equal(before["backward_trunk.main.0.weight"])


def test_frames_of_a_margin_lead_in(fitted: Path, tmp_path: Path) -> None:
    text = (fitted / "config.toml").read_text().replace("[gates]", "[gates]\nmargin = 1")
    (fitted / "margin.toml").write_text(text)
    inner, whole = trained(fitted, tmp_path / "inner", config="margin.toml"), trained(fitted, tmp_path / "whole")
    assert inner is not None
    assert whole is not None
    assert inner.adapted is not None
    assert whole.adapted is not None
    name = "forward_trunk.main.0.weight"
    assert not inner.adapted.state_dict()[name].equal(whole.adapted.state_dict()[name])
    assert read_log(tmp_path / "inner/log.jsonl")[-1]["loss"] > 0
    (fitted / "wide.toml").write_text(text.replace("margin = 1", "margin = 2"))
    with pytest.raises(ConfigError, match="3 frames leave none between margins of 2"):
        TrainConfig.load(fitted / "wide.toml")


def test_half_of_what_it_began_with_is_kept(fitted: Path, tmp_path: Path) -> None:
    (fitted / "half.toml").write_text((fitted / "config.toml").read_text().replace("[gates]", "[gates]\nkeep = 0.5"))
    whole, half = trained(fitted, tmp_path / "whole"), trained(fitted, tmp_path / "half", config="half.toml")
    assert whole is not None
    assert half is not None
    assert whole.adapted is not None
    assert half.adapted is not None
    name, origin = "backward_trunk.main.0.weight", load_file(fitted / "weights.safetensors").state_dict()
    wanted = (whole.adapted.state_dict()[name] + origin[name]) / 2
    assert torch.allclose(half.adapted.state_dict()[name], wanted, atol=2e-3)  # stored in bfloat16
    assert not torch.allclose(wanted, origin[name], atol=1e-4)


def test_the_dense_twin_teaches(fitted: Path, tmp_path: Path) -> None:
    """With it as the only teacher and hardly anything skipped, there is nothing to learn."""
    losses = {}
    for share in (0.0, 1.0):
        text = (fitted / "config.toml").read_text().replace("error_budget = 0.5", "error_budget = 1e-9\nalign = 0")
        (fitted / "taught.toml").write_text(text.replace("[gates]", f"[gates]\ndistil = {share}"))
        trained(fitted, tmp_path / str(share), config="taught.toml")
        losses[share] = read_log(tmp_path / str(share) / "log.jsonl")[0]["loss"]
    assert losses[1.0] < 0.005 < losses[0.0]


def test_what_is_kept_is_what_the_run_began_with_also_where_that_file_has_changed(fitted: Path, tmp_path: Path) -> None:
    gates = tmp_path / "gates.safetensors"
    text = (fitted / "config.toml").read_text().replace(f'"{fitted}/gates.safetensors"', f'"{gates}"\nkeep = 0.5')
    (fitted / "kept.toml").write_text(text)
    shutil.copy(fitted / "gates.safetensors", gates)
    straight = trained(fitted, tmp_path / "straight", config="kept.toml")
    trained(fitted, tmp_path / "stopped", stop_at=5, config="kept.toml")
    shutil.copy(tmp_path / "straight/last.safetensors", gates)
    resumed = trained(fitted, tmp_path / "stopped", config="kept.toml")
    assert straight is not None
    assert resumed is not None
    pairs = zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True)
    assert all(name == other and a.equal(b) for (name, a), (other, b) in pairs)


def test_a_run_does_not_go_on_with_another_twin(fitted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fitted"
    shutil.copytree(fitted, folder)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace(str(fitted), str(folder)))
    trained(folder, tmp_path / "stopped", stop_at=5)
    weights, gates = folder / "weights.safetensors", folder / "gates.safetensors"
    network = load_file(weights)
    estimator = load_estimator(gates, fingerprint("weights", weights), network)
    assert estimator is not None
    next(network.parameters()).data.mul_(1.5)
    save_network(network, weights)
    estimator.save(gates, fingerprint("weights", weights))
    with pytest.raises(ConfigError, match="is not the file that the run started with"):
        trained(folder, tmp_path / "stopped")


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(fitted: Path, tmp_path: Path) -> None:
    straight = trained(fitted, tmp_path / "straight")
    trained(fitted, tmp_path / "stopped", stop_at=5)
    resumed = trained(fitted, tmp_path / "stopped")
    assert straight is not None
    assert resumed is not None
    pairs = zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True)
    assert all(name == other and a.equal(b) for (name, a), (other, b) in pairs)


def test_the_engine_runs_the_adapted_weights_behind_gates_and_the_others_without(fitted: Path, tmp_path: Path) -> None:
    estimator = trained(fitted, tmp_path)
    network = load_file(fitted / "weights.safetensors")
    frames = np.random.default_rng(0).integers(0, 255, (4, 40, 56, 3), dtype=np.uint8)

    def upscaled(gates: Estimator | None, weights: BasicVSR, numbers: Preset) -> np.ndarray:
        model = Upscaler("weights", weights, "weights", torch.device("cpu"), torch.float32, gates)
        return model.forward(frames, None, lookahead=0, last=True, routing=numbers).frames

    nothing_skipped = Preset(mask=False, overhead=60, error_budget=1e-12)
    plain = upscaled(None, network, Preset(mask=False))
    assert np.array_equal(upscaled(estimator, network, Preset(mask=False)), plain)
    only_a_tail_that_it_has_not = Preset(mask=False, overhead=60, tail_error_budget=0.5)
    assert np.array_equal(upscaled(estimator, network, only_a_tail_that_it_has_not), plain)
    assert estimator is not None
    assert estimator.adapted is not None
    behind = upscaled(estimator, network, nothing_skipped)
    assert np.array_equal(behind, upscaled(None, estimator.adapted, Preset(mask=False)))
    assert not np.array_equal(behind, plain)


def test_the_old_name_of_the_error_budget_is_read(fitted: Path, tmp_path: Path) -> None:
    text = (fitted / "config.toml").read_text()
    (tmp_path / "old.toml").write_text(text.replace("error_budget = ", "confidence = "))
    assert TrainConfig.load(tmp_path / "old.toml") == TrainConfig.load(fitted / "config.toml")


def test_gates_of_other_weights_are_refused(fitted: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_network(BasicVSR(NetworkConfig(8, 2, "light", "light", coupled=True)), other)
    text = (fitted / "config.toml").read_text().replace(f'"{fitted}/weights.safetensors"', f'"{other}"')
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match="fitted to other weights"):
        run(TrainConfig.load(tmp_path / "config.toml"), fitted, tmp_path / "out", lambda line: None)


@pytest.mark.slow
def test_heads_alone_are_fitted_anew(fitted: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "one.mp4", frames=12, width=160, height=128)
    out, again = tmp_path / "gates.safetensors", tmp_path / "again.safetensors"
    options = {"frames": 3, "error_budget": 0.5, "rounds": 0, "weights_dir": Path()}
    train_skip.run("small", tmp_path, out, heads_of=None, **options)
    train_skip.run("small", tmp_path, again, heads_of=out, **options)
    network, origin = load_network("small", Path())
    first, second = load_estimator(out, origin, network), load_estimator(again, origin, network)
    assert first is not None
    assert second is not None
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    assert all(a.equal(b) for (name, a), (_, b) in pairs if "surrogate" in name)
    assert sorted(tmp_path.glob("*gates*")) == [out]  # written whole or not at all
    assert out.stat().st_mode & 0o044 == 0o044  # by whomever a service runs as, it can be read
    with pytest.raises(BadWeights, match="is missing"):
        train_skip.run("small", tmp_path, again, heads_of=tmp_path / "none.safetensors", **options)
    with torch.inference_mode():
        next(iter(second.backward_gates)).surrogate.weight[0, 0] = torch.nan  # type: ignore[index, union-attr]
    second.save(again, origin)
    with pytest.raises(BadWeights, match="some weights are not finite"):
        load_estimator(again, origin, network)


def test_clips_that_gates_can_not_be_fitted_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"frames": 3, "error_budget": 0.5, "rounds": 0, "weights_dir": Path(), "heads_of": None}
    make_clip(tmp_path / "flat.mp4", frames=3, width=64, height=24)
    with pytest.raises(CommandError, match="holds no clip of 32x32 pixels or more"):
        train_skip.run("small", tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert "skipped flat.mp4: 64x24 pixels are too few" in capsys.readouterr().out
    (tmp_path / "half.mp4").write_bytes(b"no video" * 99)
    with pytest.raises(CommandError, match=r"half\.mp4: cannot be decoded"):
        train_skip.run("small", tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    with pytest.raises(CommandError, match="there is no folder"):
        train_skip.run("small", tmp_path, tmp_path / "none/out", **options)  # type: ignore[arg-type]


def test_a_run_that_diverges_says_so_and_leaves_its_last_checkpoint(fitted: Path, tmp_path: Path) -> None:
    text = (fitted / "config.toml").read_text().partition("[gates]")
    text = (text[0] + "[data]" + text[2].partition("[data]")[2]).replace("warmup = 2", "warmup = 0\nlr = 1e30")
    (fitted / "wild.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"the run has diverged: .* at step \d+; lower lr"):
        run(TrainConfig.load(fitted / "wild.toml"), fitted, tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out/last.safetensors").exists()


def test_heads_are_fitted_on_the_cpu_wherever_their_gates_lie(tmp_path: Path) -> None:
    """The device `meta`, which computes nothing, stands in for a GPU."""
    clips = [Clip(str(i), lr, hr) for i, (lr, hr) in enumerate(pack_squares(tmp_path))]
    network = BasicVSR(NetworkConfig(8, 2, "light", "light", coupled=True)).eval().requires_grad_(False)
    estimator = Estimator(network.config, layout(network.config)).requires_grad_(False)
    with torch.inference_mode():
        table = measure(network, estimator, clips)
        here = fit_heads(estimator, table, steps=3)
        assert fit_heads(estimator.to("meta"), table, steps=3) == here
    assert {gate.head[0].weight.device.type for _, gate in all_gates(estimator)} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_estimator_is_fitted_on_a_gpu(tmp_path: Path) -> None:
    clips = [Clip(str(i), lr, hr) for i, (lr, hr) in enumerate(pack_squares(tmp_path))]
    network = BasicVSR(NetworkConfig(8, 2, "light", "light", coupled=True)).eval().requires_grad_(False).cuda()
    estimator = Estimator(network.config, layout(network.config)).requires_grad_(False).cuda()
    with torch.inference_mode():
        assert all(column.device.type == "cpu" for row in measure(network, estimator, clips).values() for column in row)
        fit(network, estimator, clips, error_budget=0.5, rounds=1, say=lambda _: None)
    assert {gate.head[0].weight.device.type for _, gate in all_gates(estimator)} == {"cuda"}
