"""`skipvsr train-skip`: fit a confidence estimator to a model's weights, on a folder of videos."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from commands.errors import CommandError
from commands.naming import check_names
from media import dataset
from model.engine.upscaler import load_model
from model.errors import BadWeights
from model.gates.estimator import Estimator, load_estimator
from model.training import degrade
from model.training import fit_estimator as skip
from model.training.checkpoint import replace
from model.training.prepare import Frames, each
from model.zoo.models import card, load_network

WINDOW = (384, 640)
"""Most HR rows and columns of a training clip: its middle frames, at a corner that its name decides."""
_SMALLEST = 8 * degrade.SCALE
"""HR rows and columns come in so many: a tile's."""
FIRST = 15
"""Frame at which a window starts, where the video is long enough."""


def run(
    model: str,
    data: Path,
    out: Path | None,
    *,
    frames: int,
    confidence: float,
    rounds: int,
    heads_of: Path | None,
    clean: str = "bi",
    weights_dir: Path,
) -> int:
    """Fit an estimator to `model` on the videos in `data`; writes it beside the weights, or to `out`.

    With `heads_of`, an estimator's file, only its heads are fitted anew, to the weights that it was trained with.
    `clean` is how their LR is made: as that which the model was trained on.
    Raises ModelError, and CommandError where a video cannot be decoded.
    """
    path = out or card(model, weights_dir).estimator_path(weights_dir)
    check_names(None, {"the estimator": path})
    upscaler = load_model(model, weights_dir=weights_dir)
    network, fingerprint = load_network(model, weights_dir)
    how = f"skipvsr train-skip {model} --frames {frames} --degrade {clean}"
    if heads_of is None:
        estimator = Estimator(upscaler.config, skip.layout(upscaler.config))
        how += f" --confidence {confidence} --rounds {rounds}"
    else:
        loaded = load_estimator(heads_of, fingerprint, network)
        if loaded is None:
            raise BadWeights(f"{heads_of} is not there, or was made for other weights than those of {model}")
        estimator = loaded
        how += f" --heads-of {heads_of.name}"
    estimator.ready(upscaler.device, upscaler.dtype)
    try:
        clips = list(windows(data, frames, clean))
    except ValueError as error:
        raise CommandError(str(error)) from error
    if not clips:
        raise CommandError(f"{data}: holds no clip of {_SMALLEST}x{_SMALLEST} pixels or more")
    _say(f"{len(clips)} clips of up to {frames} frames")
    with torch.inference_mode():
        if heads_of is None:
            explained = skip.fit(upscaler.network, estimator, clips, confidence, rounds, _say)
        else:
            explained = skip.fit_heads(estimator, skip.measure(estimator.adapted or upscaler.network, estimator, clips))
    for (branch, number), share in explained.items():
        _say(f"{branch} gate {number}: {share:.1%} of the added error's variance explained")
    replace(path, lambda part: estimator.save(part, fingerprint, {"made_by": how}))
    _say(f"estimator: {path}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def windows(data: Path, frames: int, clean: str = "bi") -> Iterator[skip.Clip]:
    """A clip of each video in a folder, as it is, with LR made of it by `model.training.degrade.CLEAN[clean]`."""
    for path in dataset.clips(data):
        video = dataset.clip(path, FIRST + frames)
        if min(video.shape[1:3]) < _SMALLEST:
            _say(f"{path.name} is left out: {video.shape[2]}x{video.shape[1]} pixels are too few")
        else:
            hr = _window(video[-frames:].astype(np.uint8, copy=False), zlib.crc32(path.stem.encode()))
            yield skip.Clip(path.stem, each(hr, degrade.CLEAN[clean]), hr)


def _window(hr: Frames, seed: int) -> Frames:
    rng = np.random.default_rng(seed)
    h, w = (min(have // _SMALLEST * _SMALLEST, most) for have, most in zip(hr.shape[1:3], WINDOW, strict=True))
    # a corner: what lies at a frame's edge, black borders above all, is dear to leave out, and heads have to see it
    y, x = (int(rng.integers(2)) * (have - take) for have, take in zip(hr.shape[1:3], (h, w), strict=True))
    return np.ascontiguousarray(hr[:, y : y + h, x : x + w])
