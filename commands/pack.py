"""`skipvsr pack`: training data and weights as small files, for a training run on another machine."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from commands.shared.command_line import COUNT, FILE, FOLDER, Command, ModelName, option, read_settings

if TYPE_CHECKING:
    from model.training.degrade import Frames
    from model.training.packing import Limits

SEGMENTS: Final = "segments.safetensors"


@click.command(cls=Command)
@click.argument("config", type=FILE, help="TOML file of a training run; examples are in model/training/configs")
@option("--cache", type=FOLDER, required=True, metavar="DIR", help="Folder for the data, the same as for train")
@option("--out", type=FOLDER, required=True, metavar="DIR", help="Folder for the files")
@option("--mib", type=COUNT, default=20, metavar="N", help="Size of the training data, in MiB")
@option("--frames", type=click.IntRange(min=2), default=14, metavar="N", help="Frames of a segment")
@option("--side", type=click.IntRange(min=64), default=384, metavar="N", help="Height and width, in HR pixels")
@option("--model", type=ModelName(), metavar="NAME", help="Also write this model's weights, in half precision")
def command(config: Path, cache: Path, out: Path, mib: int, frames: int, side: int, model: str | None) -> int:
    """Pack training data into a small file for another machine."""
    from model.training.packing import Limits

    limits = Limits(bytes=mib * 2**20, frames=frames, side=side)
    return run(config, cache, out, limits, model, read_settings().weights)


def run(config: Path, cache: Path, out: Path, limits: Limits, model: str | None, weights_dir: Path) -> int:
    """Pack the data of a training run, and the weights of a model, into the folder `out`.

    The data are first prepared in `cache`, as `skipvsr train` does. Raises ModelError.
    """
    import torch

    from media import dataset
    from model.training.checkpoint import replace
    from model.training.config import TrainConfig
    from model.training.packing import pack
    from model.training.prepare import Codec, prepare
    from model.zoo.models import load_network
    from model.zoo.weights_file import save_network

    say, settings = partial(print, flush=True), TrainConfig.load(config)
    codec = Codec(dataset.clips, dataset.pictures, dataset.decode, dataset.h264, dataset.mpeg)
    prepare(settings.data, cache, codec, settings.seed, say)
    packed = pack(cache, out / SEGMENTS, limits, dataset.h264_rgb, _decoded, say)
    say(
        f"{out / SEGMENTS}: {packed.segments} segments, {packed.frames} frames, {packed.bytes / 2**20:.1f} MiB; "
        f"{packed.left_out} segments did not fit"
    )
    said = {"hr": "ground truth", "up": "compressed versions", "up to bi": "for comparison, compression itself"}
    say("PSNR of packing: " + ", ".join(f"{said[kind]} {db:.1f} dB" for kind, db in packed.means.items()))
    if model is not None:
        network, fingerprint = load_network(model, weights_dir)
        path = out / f"{model}.safetensors"
        replace(path, lambda part: save_network(network, part, {"rounded_from": fingerprint}, torch.float16))
        say(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    return 0


def _decoded(video: bytes) -> Frames:
    """Decode a packed video."""
    import numpy as np

    from media import dataset

    with tempfile.NamedTemporaryFile(suffix=".mkv") as file:
        file.write(video)
        file.flush()
        return np.stack(list(dataset.decode(Path(file.name))))
