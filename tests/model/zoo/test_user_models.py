"""User models: each valid weights file in the weights folder is a model under the file's name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

from model.engine.loading import load_model
from model.errors import BadWeights, UnknownModel
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.training.config import TrainConfig
from model.zoo.models import CARDS, PACKAGED, card, cards, load_network, present, unusable
from model.zoo.user_models import _shapes
from model.zoo.weights_file import fingerprint, load_file
from tests.support.paths import ROOT
from tests.support.user_models import TINY, fit_estimator, reason_unused, truncate, user_models, write_model


def test_a_file_is_a_model_under_its_name(tmp_path: Path) -> None:
    path = write_model(tmp_path, "my-clips_v1.2")
    write_model(tmp_path, "large", config=NetworkConfig(16, 3))
    assert user_models(tmp_path) == {
        "large": "user model, 16 channels x 3 blocks",
        "my-clips_v1.2": "user model, 8 channels x 1 block",
    }
    assert unusable(tmp_path) == []
    network, named = load_network("my-clips_v1.2", tmp_path)
    assert named == fingerprint("my-clips_v1.2", path)
    stored = load_tensors(path)
    assert all(tensor.equal(stored[key]) for key, tensor in network.state_dict().items())
    assert {entry.name for entry in CARDS} <= {entry.name for entry in cards(tmp_path)}
    assert present(tmp_path / "none") == [entry for entry in CARDS if not entry.sha256]


def test_packaged_names_win(tmp_path: Path) -> None:
    shutil.copy(write_model(tmp_path, "mine"), tmp_path / "small.safetensors")
    shutil.copy(write_model(tmp_path, "mine"), tmp_path / "auto.safetensors")
    assert user_models(tmp_path) == {"mine": "user model, 8 channels x 1 block"}
    assert "'small' is a packaged model; rename the file" in reason_unused(tmp_path, "small.safetensors")
    assert "'auto' means the default model" in reason_unused(tmp_path, "auto.safetensors")
    assert load_network("small", tmp_path)[1] == fingerprint("small", PACKAGED / "small.safetensors")


@pytest.mark.parametrize("name", ["Mine", "_mine", "-mine", "min e", "größe", "x" * 65])
def test_invalid_names_are_refused(name: str, tmp_path: Path) -> None:
    write_model(tmp_path, name)
    assert user_models(tmp_path) == {}
    assert "a model's name may contain a to z" in reason_unused(tmp_path, f"{name}.safetensors")
    with pytest.raises(BadWeights, match="a model's name"):
        load_network(name, tmp_path)


@pytest.mark.parametrize("name", ["../mine", "folder/mine", ".mine", "skip-mine", "", "mine\0", "x" * 4000])
def test_a_name_cannot_leave_the_folder(name: str, tmp_path: Path) -> None:
    write_model(tmp_path / "weights" / "folder")
    for other in ("mine", ".mine", "skip-mine"):
        write_model(tmp_path / "weights", other)
    write_model(tmp_path)
    with pytest.raises(UnknownModel):
        load_network(name, tmp_path / "weights")


def test_the_scale_comes_from_the_checkpoint(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    config = {name: value for name, value in vars(TINY).items() if name != "scale"}
    save_file(load_tensors(path), path, {"config": json.dumps(config)})
    assert load_network("mine", tmp_path)[0].scale == 4  # older checkpoints name none
    save_file(load_tensors(path), path, {"config": json.dumps(config | {"scale": 3})})
    assert "unsupported network" in reason_unused(tmp_path, "mine.safetensors")
    with pytest.raises(BadWeights, match="scale 3 is not supported"):
        load_file(path)


def test_cards_know_the_scale_of_their_model(tmp_path: Path) -> None:
    write_model(tmp_path, "double", config=replace(TINY, scale=2))
    write_model(tmp_path, "mine")
    known = {entry.name: entry for entry in cards(tmp_path)}
    assert known["double"].description == "user model, 8 channels x 1 block, x2"
    for name in ("double", "mine", "tiny", "small", "small-x2", "small-clean"):
        assert load_network(name, tmp_path)[0].scale == known[name].scale
    assert known["small-x2"].scale == 2


@pytest.mark.parametrize(
    "config",
    [TINY, NetworkConfig(8, 2), NetworkConfig(8, 2, "light", "full"), NetworkConfig(8, 1, "light", "light", True, 2)],
)
def test_shapes_are_known_without_weights(config: NetworkConfig) -> None:
    before = torch.get_rng_state()
    shapes = _shapes.__wrapped__(config)
    assert before.equal(torch.get_rng_state())
    assert shapes == {name: tuple(tensor.shape) for name, tensor in BasicVSR(config).state_dict().items()}


def test_a_card_names_the_estimator_file(tmp_path: Path) -> None:
    write_model(tmp_path)
    assert card("mine", tmp_path).estimator_path(tmp_path) == tmp_path / "skip-mine.safetensors"
    assert card("small", tmp_path).estimator_path(tmp_path) == PACKAGED / "skip-small.safetensors"


def test_an_estimator_file_belongs_to_the_model_of_its_name(
    weights_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(weights_folder, config=NetworkConfig(8, 2, "light", "light", coupled=True))
    estimator = fit_estimator(weights_folder, tmp_path)
    assert str(estimator) in capsys.readouterr().out
    assert sorted(path.name for path in weights_folder.iterdir()) == ["mine.safetensors", "skip-mine.safetensors"]
    assert user_models(weights_folder) == {"mine": "user model, 8 channels x 2 blocks, with an estimator"}
    model = load_model("mine", weights_dir=weights_folder, device="cpu", precision="fp32", threads=1)
    assert model.estimator is not None
    write_model(weights_folder, seed=1, config=NetworkConfig(8, 2, "light", "light", coupled=True))
    assert user_models(weights_folder) == {"mine": "user model, 8 channels x 2 blocks"}
    assert "fitted to other weights; fit a new one: skipvsr train-skip mine" in reason_unused(
        weights_folder, "skip-mine.safetensors"
    )
    assert load_model("mine", weights_dir=weights_folder, device="cpu", precision="fp32", threads=1).estimator is None
    truncate(estimator)
    assert "the file is damaged" in reason_unused(weights_folder, "skip-mine.safetensors")
    assert load_model("mine", weights_dir=weights_folder, device="cpu", precision="fp32", threads=1).estimator is None
    (weights_folder / "mine.safetensors").unlink()
    assert "the folder has no user model 'mine'" in reason_unused(weights_folder, "skip-mine.safetensors")


def test_the_fine_tuning_configuration_matches_its_initial_weights() -> None:
    config = TrainConfig.load(ROOT / "model/training/configs/finetune.toml")
    assert config.init is not None
    assert load_file(ROOT / config.init).config == config.network_config
