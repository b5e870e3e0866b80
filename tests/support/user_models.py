"""User models: weights files of tiny networks with random weights, and their estimators."""

from __future__ import annotations

from pathlib import Path

import torch

import cli
from model.network.basicvsr import BasicVSR, NetworkConfig
from model.zoo.models import cards, unusable
from model.zoo.weights_file import save_network
from tests.support.clips import make_clip

TINY = NetworkConfig(8, 1, "light", "light", coupled=True)


def write_model(folder: Path, name: str = "mine", seed: int = 0, config: NetworkConfig = TINY) -> Path:
    """Write a network with random weights to `folder/NAME.safetensors`, in the format of `skipvsr train`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_network(BasicVSR(config), folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def user_models(folder: Path) -> dict[str, str]:
    """Descriptions of the user models in `folder`, by name."""
    return {entry.name: entry.description for entry in cards(folder) if entry.user}


def reason_unused(folder: Path, file: str) -> str:
    """Message about an unusable file in `folder`."""
    (line,) = [line for line in unusable(folder) if line.startswith(f"{folder / file} ")]
    return line


def truncate(path: Path) -> None:
    """Cut the last seven bytes off a file."""
    path.write_bytes(path.read_bytes()[:-7])


def fit_estimator(weights: Path, clips: Path, name: str = "mine") -> Path:
    """Run `skipvsr train-skip` on one short clip; return the estimator's file in the folder `weights`."""
    make_clip(clips / "one.mp4", frames=12, width=160, height=128)
    assert cli.main(["train-skip", name, "--clips", str(clips), "--frames", "3"]) == 0
    return weights / f"skip-{name}.safetensors"
