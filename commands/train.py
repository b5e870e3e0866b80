"""`skipvsr train`: pack the data once, then train; a run that was killed goes on where it was."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from media import dataset
from model.training.config import TrainConfig
from model.training.loop import run as train
from model.training.prepare import Codec, prepare


def run(config: Path, cache: Path, out: Path, weights_dir: Path) -> int:
    """Train as `config` says, with data packed in `cache`, into the folder `out`.

    Says at its end how what came out becomes a model, which is by a copy in `weights_dir`. Raises ModelError.
    """
    settings = TrainConfig.load(config)
    codec = Codec(dataset.clips, dataset.pictures, dataset.decode, dataset.h264, dataset.mpeg)
    prepare(settings.data, cache, codec, settings.seed, _say)
    weights = train(settings, cache, out, _say)
    if os.environ.get("RANK", "0") == "0":  # torchrun's other processes are done before the weights are written
        _say(f"weights: {weights}")
        if settings.gates is None and weights.is_file():
            model = weights_dir / "mine.safetensors"
            _say(f"to use them: {shlex.join(['cp', str(weights), str(model)])}, then --model mine (or any other name)")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
