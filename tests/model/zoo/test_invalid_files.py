"""Invalid weights files: each is named with the reason, and other models keep working."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

from model.engine.loading import load_model
from model.errors import BadWeights
from model.network.basicvsr import NetworkConfig
from model.zoo.models import PACKAGED, load_network
from tests.support.user_models import TINY, reason_unused, truncate, user_models, write_model


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def no_tensors(path: Path) -> None:
    path.write_text("no weights, but a text that is long enough to hold a length\n" * 9)


def pickled(path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (path.with_name("ran"),))

    torch.save({"params": Evil()}, path)


def nested(path: Path) -> None:
    text = b"[" * 100_000
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def renamed(path: Path) -> None:
    tensors = load_tensors(path)
    tensors["conv_first.weight"] = tensors.pop("conv_last.weight")
    save_file(tensors, path, {"config": json.dumps(vars(TINY))})


def others(path: Path) -> None:
    save_file({"conv.weight": torch.zeros(3, dtype=torch.int64)}, path)


def larger_than_it_says(path: Path) -> None:
    save_file(load_tensors(path), path, {"config": json.dumps(vars(NetworkConfig(12, 1, "light", "light", True)))})


def endless(path: Path) -> None:
    save_file(load_tensors(path), path, {"config": json.dumps(vars(NetworkConfig(8, 10**9, "light", "light", True)))})


def of_another_kind(path: Path) -> None:
    save_file(load_tensors(path), path, {"config": json.dumps(vars(TINY) | {"flow": "raft"})})


def an_estimator(path: Path) -> None:
    shutil.copy(PACKAGED / "skip-small.safetensors", path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "the file is damaged"),
        (emptied, "not a safetensors file"),
        (no_tensors, "not a safetensors file"),
        (pickled, "not a safetensors file"),
        (nested, "damaged"),
        (renamed, "conv_first.weight is unknown"),
        (others, "no network written by `skipvsr train`"),
        (larger_than_it_says, "no complete network of 12 channels x 1 block: backward_trunk.main.0.bias is 8, not 12"),
        (endless, "unsupported network"),
        (of_another_kind, "unsupported network"),
        (an_estimator, "an estimator, not a network"),
    ],
)
def test_an_invalid_file_is_named_and_other_models_work(spoil, message: str, tmp_path: Path) -> None:
    write_model(tmp_path, "good")
    spoil(write_model(tmp_path, "bad"))
    assert list(user_models(tmp_path)) == ["good"]
    assert message in reason_unused(tmp_path, "bad.safetensors")
    with pytest.raises(BadWeights, match=r"bad\.safetensors"):
        load_network("bad", tmp_path)
    load_network("good", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_folders_and_pipes_are_ignored(make: Callable[[Path], None], tmp_path: Path) -> None:
    write_model(tmp_path, "good")
    make(tmp_path / "mine.safetensors")
    make(tmp_path / "skip-good.safetensors")
    assert user_models(tmp_path) == {"good": "user model, 8 channels x 1 block"}
    assert reason_unused(tmp_path, "mine.safetensors").endswith("not a regular file")
    assert reason_unused(tmp_path, "skip-good.safetensors").endswith("not a regular file")
    load_model("good", weights_dir=tmp_path, device="cpu", precision="fp32", threads=1)


def test_weights_of_a_diverged_run_are_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    save_file(
        {name: tensor * torch.nan for name, tensor in load_tensors(path).items()},
        path,
        {"config": json.dumps(vars(TINY))},
    )
    with pytest.raises(BadWeights, match="not finite"):
        load_network("mine", tmp_path)
