"""`skipvsr train-skip`: fit a confidence estimator to a model's weights, on a folder of videos."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from commands.shared.command_line import COUNT, FILE, FOLDER, Command, ModelName, Positive, option, read_settings
from commands.shared.errors import CommandError

if TYPE_CHECKING:
    from model.gates.estimator import Estimator
    from model.training.fit_estimator import Clip
    from model.training.prepare import Frames

WINDOW: Final = (384, 640)
"""Most HR rows and columns of a training clip: a corner of each frame, chosen by the clip's name."""
_TILE: Final = 32
"""HR rows and columns of a tile; windows are multiples of a tile."""
FIRST: Final = 15
"""First frame of a window, in videos that are long enough."""

_say = partial(print, flush=True)


@click.command(cls=Command)
@click.argument("model", type=ModelName(), metavar="MODEL", help="Model to fit the estimator to")
@option("--clips", type=FOLDER, required=True, metavar="DIR", help="Videos to fit on")
@option("--out", type=FILE, metavar="FILE", help="Estimator file; default: the model's file in the weights folder")
@option("--frames", type=COUNT, default=5, metavar="N", help="Frames of each video")
@option("--error-budget", type=Positive(), default=0.02, metavar="X", help="Error budget during alignment")
@option("--rounds", type=click.IntRange(0, 99), default=0, metavar="0-99", help="Rounds of alignment")
@option("--degrade", type=click.Choice(["bi", "bd"]), default="bi", help="How to make low resolution")
@option("--heads-of", type=FILE, metavar="FILE", help="Refit only the heads of this estimator")
def command(
    model: str,
    clips: Path,
    out: Path | None,
    frames: int,
    error_budget: float,
    rounds: int,
    degrade: str,
    heads_of: Path | None,
) -> int:
    """Fit a confidence estimator for skipping blocks."""
    return run(
        model,
        clips,
        out,
        frames=frames,
        error_budget=error_budget,
        rounds=rounds,
        heads_of=heads_of,
        clean=degrade,
        weights_dir=read_settings().weights,
    )


def run(
    model: str,
    data: Path,
    out: Path | None,
    *,
    frames: int,
    error_budget: float,
    rounds: int,
    heads_of: Path | None,
    clean: str = "bi",
    weights_dir: Path,
) -> int:
    """Fit an estimator to `model` on the videos in `data`; write the estimator beside the weights, or to `out`.

    `heads_of`, an estimator file, keeps its adapted weights and refits only the heads. `clean` makes the LR frames, as
    in the training of the model. Raises ModelError, and CommandError if a video cannot be decoded.
    """
    import torch

    from commands.shared.naming import check_names
    from model.device import resolve_device, resolve_dtype, set_threads
    from model.engine.upscaler import Upscaler
    from model.training import fit_estimator
    from model.training.checkpoint import replace
    from model.zoo.models import card, load_network

    path = out or card(model, weights_dir).estimator_path(weights_dir)
    check_names(None, {"the estimator": path})
    network, fingerprint = load_network(model, weights_dir)
    device = resolve_device("auto")
    if device.type == "cpu":
        set_threads(0)
    upscaler = Upscaler(model, network, fingerprint, device, resolve_dtype("auto", device))  # features without integers
    how = f"skipvsr train-skip {model} --frames {frames} --degrade {clean}"
    if heads_of is None:
        estimator = _new(upscaler.config)
        how += f" --error-budget {error_budget} --rounds {rounds}"
    else:
        estimator = _loaded(heads_of, model, fingerprint, network)
        how += f" --heads-of {heads_of.name}"
    estimator.ready(upscaler.device, upscaler.dtype)
    clips = _clips(data, frames, clean, upscaler.scale)
    _say(f"{len(clips)} clips of up to {frames} frames")
    with torch.inference_mode():
        if heads_of is None:
            explained = fit_estimator.fit(upscaler.network, estimator, clips, error_budget, rounds, _say)
        else:
            measured = fit_estimator.measure(estimator.adapted or upscaler.network, estimator, clips)
            explained = fit_estimator.fit_heads(estimator, measured)
    for (branch, number), share in explained.items():
        _say(f"{branch} gate {number}: explains {share:.1%} of the variance of the added error")
    replace(path, lambda part: estimator.save(part, fingerprint, {"made_by": how}))
    _say(f"estimator: {path}")
    return 0


def _new(config: Any) -> Estimator:
    from model.gates.estimator import Estimator
    from model.training import fit_estimator

    return Estimator(config, fit_estimator.layout(config))


def _loaded(path: Path, model: str, fingerprint: str, network: Any) -> Estimator:
    """The estimator in a file. Raises BadWeights if the file is missing or fits other weights."""
    from model.errors import BadWeights
    from model.gates.estimator import load_estimator

    estimator = load_estimator(path, fingerprint, network)
    if estimator is None:
        raise BadWeights(f"{path} is missing, or was fitted to other weights than those of {model}")
    return estimator


def _clips(data: Path, frames: int, clean: str, scale: int) -> list[Clip]:
    """The windows of all videos. Raises CommandError if a video cannot be decoded, or none is large enough."""
    try:
        clips = list(windows(data, frames, clean, scale))
    except ValueError as error:
        raise CommandError(str(error)) from error
    if not clips:
        raise CommandError(f"{data} holds no clip of {_TILE}x{_TILE} pixels or more")
    return clips


def windows(data: Path, frames: int, clean: str = "bi", scale: int = 4) -> Iterator[Clip]:
    """A training clip of each video in a folder: HR frames as decoded, LR frames by `degrade.CLEAN[clean]`."""
    import numpy as np

    from media import dataset
    from model.training import degrade
    from model.training.degrade import each
    from model.training.fit_estimator import Clip

    for path in dataset.clips(data):
        video = dataset.clip(path, FIRST + frames)
        if min(video.shape[1:3]) < _TILE:
            _say(f"skipped {path.name}: {video.shape[2]}x{video.shape[1]} pixels are too few")
        else:
            hr = _window(video[-frames:].astype(np.uint8, copy=False), zlib.crc32(path.stem.encode()))
            yield Clip(path.stem, each(hr, partial(degrade.CLEAN[clean], scale=scale)), hr)


def _window(hr: Frames, seed: int) -> Frames:
    """A corner of the frames, because heads must see frame edges: skipping blocks at black borders is costly."""
    import numpy as np

    rng = np.random.default_rng(seed)
    h, w = (min(have // _TILE * _TILE, most) for have, most in zip(hr.shape[1:3], WINDOW, strict=True))
    y, x = (int(rng.integers(2)) * (have - take) for have, take in zip(hr.shape[1:3], (h, w), strict=True))
    return np.ascontiguousarray(hr[:, y : y + h, x : x + w])
