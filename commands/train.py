"""`skipvsr train`: pack the data once, then train, or resume an interrupted run."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path

import click

from commands.shared.command_line import FILE, FOLDER, Command, option, read_settings


@click.command(cls=Command)
@click.argument("config", type=FILE, help="TOML file; examples are in model/training/configs")
@option("--cache", type=FOLDER, required=True, metavar="DIR", help="Folder for the packed training data")
@option("--out", type=FOLDER, required=True, metavar="DIR", help="Folder for weights, log, plot and state")
def command(config: Path, cache: Path, out: Path) -> int:
    """Train a network, or resume an interrupted run."""
    return run(config, cache, out, read_settings().weights)


def run(config: Path, cache: Path, out: Path, weights_dir: Path) -> int:
    """Train according to `config`, with data packed in `cache`, into the folder `out`.

    Prints at the end how to install the weights as a user model in `weights_dir`. Raises ModelError.
    """
    from media import dataset
    from model.training.config import TrainConfig
    from model.training.loop import run as train
    from model.training.prepare import Codec, prepare

    say = partial(print, flush=True)
    settings = TrainConfig.load(config)
    codec = Codec(dataset.clips, dataset.pictures, dataset.decode, dataset.h264, dataset.mpeg)
    prepare(settings.data, cache, codec, settings.seed, say)
    weights = train(settings, cache, out, say)
    if os.environ.get("RANK", "0") == "0":  # torchrun: rank 0 writes the weights, after the other processes ended
        say(f"weights: {weights}")
        if settings.gates is None and weights.is_file():
            model = weights_dir / "mine.safetensors"
            say(f"to use them: {shlex.join(['cp', str(weights), str(model)])}, then --model mine (or any other name)")
    return 0
